"""How fresh answers are: waiting for records by their offsets, and the state of the consumer group and of Milvus."""
