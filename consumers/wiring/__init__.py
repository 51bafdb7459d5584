"""Objects from the configuration: the only room that joins the parts of a process.

`connections` to Kafka and Milvus; `documents`: decoder, chunker, model; `modes` and `collection`: how a collection is
written; `searches`; then a module for each process: `ingest`, `replay`, `audit`, `query`. What can be checked before
a model is loaded is in `start_checks`; `validation` needs no connection.
"""
