"""From a request to hits: filters, the plan of Milvus partitions, the search."""
