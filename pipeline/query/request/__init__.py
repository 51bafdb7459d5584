"""The request of a search: its model and limits, filters and their form for Milvus, and what is wrong with it."""
