"""The Milvus server: the interface, its client over pymilvus, errors, retries, and the differences between servers."""
