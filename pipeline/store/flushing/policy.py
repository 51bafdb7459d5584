"""The policy of flushes: when one is due, and when a worker stops waiting for another worker's flush. Pure."""

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.backoff import Backoff
from pipeline.errors import UsageError
from pipeline.store.milvus.api import ServerInfo

LONGEST_READ_INTERVAL_S = 5.0
SILENT_INTERVALS = 3
OVERDUE_INTERVALS = 6
UNREADY_INTERVALS = 3
LIMITED_SPACING_S = 10.0
"""From Milvus 2.4 on, more than one flush of a collection within this time is refused by default."""
_RETRY = Backoff(first_s=1.0, cap_s=30.0)


def flush_spacing_s(server: ServerInfo) -> float:
    """The least time between two flushes of a collection that this server allows, in seconds."""
    return LIMITED_SPACING_S if server.capabilities.limits_flushes else 0.0


@dataclass(frozen=True, slots=True)
class FlushNeed:
    """What asks for a flush; times are of one monotonic clock, in seconds."""

    last_began: float
    """When the last flush began; before the first one, when the flusher was created."""
    waiting: bool = False
    """Something was acknowledged that is not durable and is not part of the flush in progress."""
    rows: int = 0
    """Rows acknowledged since the last flush began."""
    requested: bool = False
    closing: bool = False
    failures: int = 0
    """Failed attempts of the current flush."""
    not_before: float = float("-inf")
    """The time of the next attempt after a failure."""
    error: str = ""
    """Of the last call that failed since something became durable."""


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    """How often to flush."""

    durability: Literal["flush", "ack"] = "flush"
    """`flush`: a receipt is durable after a flush that began after its ack; `ack`: at once."""
    interval_s: float = 30.0
    rows: int | None = None
    """Flush when this many rows wait: Lite searches unflushed rows one by one, about 40 µs each."""
    retry: Backoff = _RETRY

    def __post_init__(self) -> None:
        if self.interval_s <= 0:
            raise UsageError(f"milvus.flush_interval is {self.interval_s} s: write more than 0")
        if self.rows is not None and self.rows < 1:
            raise UsageError(f"flush after {self.rows} rows: write at least 1")

    @property
    def read_interval_s(self) -> float:
        """Seconds between two reads of the marker of the worker that flushes."""
        return min(self.interval_s / 2, LONGEST_READ_INTERVAL_S)

    def due_at(self, need: FlushNeed, spacing_s: float) -> float | None:
        """When the next flush should begin, possibly in the past; None: not before something is acknowledged."""
        if need.failures:
            return need.not_before
        if not need.waiting:
            return None
        if need.closing:
            return need.last_began
        pressing = need.requested or (self.rows is not None and need.rows >= self.rows)
        return need.last_began + (spacing_s if pressing else max(self.interval_s, spacing_s))

    def must_take_over(self, waiting_since: float, announced_at: float, now: float, spacing_s: float) -> bool:
        """Whether a worker that waits for another worker's flush must flush itself.

        `waiting_since`: since when none of its receipts became durable. `announced_at`: when another worker last
        announced a flush. Two cases:

        1. No announcement for a long time: the leader is in trouble, or has nothing to flush.
        2. Announcements, but nothing became durable for even longer: workers flush in turns, each too rarely to count.
        """
        interval_s = max(self.interval_s, spacing_s)
        silent = now - max(waiting_since, announced_at) > SILENT_INTERVALS * interval_s
        return silent or now - waiting_since > OVERDUE_INTERVALS * interval_s

    def overdue(self, need: FlushNeed, waiting_s: float, spacing_s: float) -> str | None:
        """What is wrong when nothing became durable for this long; None before three intervals."""
        limit_s = UNREADY_INTERVALS * max(self.interval_s, spacing_s)
        if waiting_s <= limit_s:
            return None
        cause = (
            f"The last error: {need.error}"
            if need.error
            else "No error so far: one is under way, here or in another worker"
        )
        return (
            f"no flush has succeeded for {waiting_s:.0f} s (three times milvus.flush_interval are {limit_s:.0f} s), so "
            f"nothing written since is durable, and nothing is committed. {cause}"
        )

    def after_failure(self, need: FlushNeed, now: float, *, jitter: float) -> FlushNeed:
        """The need after a failed attempt, which is repeated later; `jitter` in [0, 1)."""
        backoff = replace(self.retry, cap_s=min(self.retry.cap_s, self.retry.first_s)) if need.closing else self.retry
        failures = need.failures + 1
        return replace(need, failures=failures, not_before=now + backoff.delay_s(failures, jitter))
