"""Everything spoken to Kafka: source, offsets, rebalance, dead letters."""
