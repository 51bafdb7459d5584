"""The write protocol: what a micro-batch changes, given the ledger and the places of former rows.

Pure: it calls neither Milvus nor a clock.
"""
