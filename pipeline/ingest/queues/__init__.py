"""What waits between the stages: micro-batches, bounded queues, work in order, receipts on their way to a commit."""
