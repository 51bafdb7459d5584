"""When a flush is due. Pure: times come in and go out."""

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.errors import UsageError
from pipeline.store.milvus.api import ServerInfo

LONGEST_LOOK_S = 5.0
SILENT_INTERVALS = 3
OVERDUE_INTERVALS = 6
LIMITED_SPACING_S = 10.0
"""From Milvus 2.4 on, more than one flush of a collection within this time is refused by default."""


def flush_spacing_s(server: ServerInfo) -> float:
    """The least time between two flushes that this server allows: none on Lite and before 2.4."""
    return 0.0 if server.lite or (0, 0, 0) < server.number < (2, 4, 0) else LIMITED_SPACING_S


@dataclass(frozen=True, slots=True)
class FlushState:
    """What the decision when to flush is made from; times are of one monotonic clock, in seconds."""

    last_began: float
    """When the last flush began; before the first one, when the governor started."""
    waiting: bool = False
    """Something was acknowledged that is not durable, and no flush in hand will make it so."""
    rows: int = 0
    """Rows acknowledged since the last flush began."""
    requested: bool = False
    closing: bool = False
    failures: int = 0
    """Attempts of the flush in hand that failed."""
    not_before: float = float("-inf")


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    """How often to flush."""

    durability: Literal["flush", "ack"] = "flush"
    """`flush`: a receipt is durable by a flush that began after the ack; `ack`: at once, flushes only tidy up."""
    interval_s: float = 30.0
    rows: int | None = None
    """Flush as soon as so many rows wait: Lite searches such rows one by one, about 40 µs each."""
    first_retry_s: float = 1.0
    longest_retry_s: float = 30.0

    def __post_init__(self) -> None:
        if self.interval_s <= 0:
            raise UsageError(f"milvus.flush_interval is {self.interval_s} s: write more than 0")
        if self.rows is not None and self.rows < 1:
            raise UsageError(f"flush after {self.rows} rows: write at least 1")

    @property
    def look_s(self) -> float:
        """Between two looks at the marker of the worker that flushes."""
        return min(self.interval_s / 2, LONGEST_LOOK_S)

    def due_at(self, state: FlushState, spacing_s: float) -> float | None:
        """When the next flush should begin, possibly in the past; None: not before something is acknowledged."""
        if state.failures:
            return state.not_before
        if not state.waiting:
            return None
        if state.closing:
            return state.last_began
        pressing = state.requested or (self.rows is not None and state.rows >= self.rows)
        return state.last_began + (spacing_s if pressing else max(self.interval_s, spacing_s))

    def given_up(self, waiting_since: float, told_at: float, now: float, spacing_s: float) -> bool:
        """Whether a worker that waits for somebody else's flush should flush itself.

        `waiting_since`: since when none of its receipts became durable. `told_at`: when it last heard of a flush; the
        leader may be in trouble, or have nothing to flush. The second limit is for workers that flush in turns: what
        they tell never adds up for those who wait.
        """
        interval_s = max(self.interval_s, spacing_s)
        silent = now - max(waiting_since, told_at) > SILENT_INTERVALS * interval_s
        return silent or now - waiting_since > OVERDUE_INTERVALS * interval_s

    def after_failure(self, state: FlushState, now: float, *, jitter: float) -> FlushState:
        """The flush in hand failed: try again later, with `jitter` in [0, 1) over the upper half of the wait."""
        longest = min(self.longest_retry_s, self.first_retry_s) if state.closing else self.longest_retry_s
        wait = min(longest, self.first_retry_s * 2.0 ** min(state.failures, 30)) * (0.5 + jitter / 2)
        return replace(state, failures=state.failures + 1, not_before=now + wait)
