"""What is this worker's: batches in flight, Kafka partitions fenced by a revocation, and what is a redo."""
