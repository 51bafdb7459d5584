"""Clients of the query worker: of the commands, and for other frameworks.

Those of frameworks are a file each, which imports its framework and nothing of ours.
"""
