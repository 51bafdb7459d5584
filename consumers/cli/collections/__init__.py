"""`milvus-stream collections`: the collections that milvus-stream made in Milvus."""
