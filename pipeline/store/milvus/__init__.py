"""pipeline/store/milvus."""
