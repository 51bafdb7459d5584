"""Documents as they are stored: read whole, their history in Milvus, and documents similar to them."""
