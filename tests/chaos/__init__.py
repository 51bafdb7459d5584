"""Ingest workers under faults: `python -m tests.chaos --minutes 10 --seed 1`, or `make chaos MINUTES=10 SEED=1`.

Real Kafka, real Milvus, real worker processes; afterwards an oracle that shares no code with them compares what is
stored with what was produced.
"""
