"""The audit job: reads records, rows and ledger, compares them, and repairs documents."""
