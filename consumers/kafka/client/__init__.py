"""Clients: the three clients of kafka-python, their errors and retries, and the clock of their heartbeats.

`internals` has what is used or replaced of the client's private names.
"""
