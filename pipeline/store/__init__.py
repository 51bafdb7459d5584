"""From vectors to Milvus: schema, time partitions, ledger, writer, flush governor, client."""
