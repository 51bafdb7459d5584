"""`milvus-stream embed` and `milvus-stream bench embed`: the model alone."""
