"""Producing: a record sent exactly as it was, transactions with a time limit, and the publisher of the demo.

Dead letters and forwarded records use a producer of their caller's; only `publisher` has its own.
"""
