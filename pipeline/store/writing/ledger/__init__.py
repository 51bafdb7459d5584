"""The ledger: one row a document in a collection of its own, read, cached, written, repaired and cleaned up.

A worker's own writes are cached while a read may miss them.
"""
