"""The write protocol: what a micro-batch changes, given the ledger; the rows and places of a document.

Pure: it calls neither Milvus nor a clock.
"""
