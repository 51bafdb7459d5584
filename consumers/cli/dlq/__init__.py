"""`milvus-stream dlq`: the dead-letter topic."""
