"""`milvus-stream doctor`: checks of everything a worker needs."""
