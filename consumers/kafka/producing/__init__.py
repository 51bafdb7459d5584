"""Producing: a record sent exactly as it was, transactions with a time limit, and the publisher of the demo.

The callers drive the producer themselves.
"""
