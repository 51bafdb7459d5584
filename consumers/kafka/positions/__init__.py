"""Positions: where reading begins on a Kafka partition, and which offsets may be committed.

Commits, the log and what Milvus remembers are compared, so that a gap stops a worker.
"""
