"""From the bytes of a Kafka record to an operation on a document. Pure."""
