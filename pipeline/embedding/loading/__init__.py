"""From settings to a running model: find and check its files, load it, choose fast paths and batch sizes, verify it.

Only `load` is imported from outside; it imports torch on the first call.
"""
