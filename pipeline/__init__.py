"""The library: documents, vectors, Milvus. It knows no Kafka, no configuration and no process."""
