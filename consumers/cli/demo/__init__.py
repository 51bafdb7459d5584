"""`milvus-stream demo`: the whole product on this machine."""
