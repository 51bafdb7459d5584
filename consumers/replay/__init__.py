"""Replay: a bounded range of the topics, found by time, is read again into a collection.

The wiring joins a ReplaySource, a RejectedLog and, for the live collection, a GuardedWriter to a worker.
"""

from consumers.replay.guard import GuardedWriter
from consumers.replay.job import RejectedLog, ReplayProcess, ReplaySummary, empty_summary, finish_replay
from consumers.replay.plan import Estimate, ReplayPlan, estimate_work, group_name, plan_replay
from consumers.replay.source import ReplaySource

__all__ = [
    "Estimate",
    "GuardedWriter",
    "RejectedLog",
    "ReplayPlan",
    "ReplayProcess",
    "ReplaySource",
    "ReplaySummary",
    "empty_summary",
    "estimate_work",
    "finish_replay",
    "group_name",
    "plan_replay",
]
