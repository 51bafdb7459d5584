"""Topics, seen from outside: their settings and offsets, and records read without a group.

A range of time (`--from`, `--to`) is cut from a topic here, too.
"""
