"""Common parts of the commands: their options, how they print, and what is in Kafka and Milvus.

Imports nothing, for a fast start.
"""
