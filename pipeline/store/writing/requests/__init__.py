"""Upsert requests: many rows in few requests of bounded size, and what follows from the answers of Milvus.

A refusal is traced to the document that caused it.
"""
