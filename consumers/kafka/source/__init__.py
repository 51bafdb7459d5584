"""Sources: the member of a consumer group that reads records, and its steps at each rebalance.

`base_source` is shared with the source of a replay.
"""
