"""When a worker process that ended is started again: by its exit code and by how long it ran."""

import signal
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.backoff import Backoff
from pipeline.errors import MilvusStreamError, Mismatch, UsageError

TOO_MANY_REJECTED = 78
"""How a supervised worker ends with TooManyRejected, whose own code, 1, is also that of errors that pass.

A restart would send as many records again to the dead letters as the limit allows."""
BACKOFF = Backoff(first_s=1.0, cap_s=60.0)
STEADY_S = 60.0
"""A worker that ran so long has recovered: its next end is the first again."""

Outcome: TypeAlias = Literal["restart", "finished", "final"]
"""What follows an end: the next start; nothing, it has caught up; the end of all, with its exit code."""

_FINAL = {UsageError.exit_code: UsageError.exit_code, Mismatch.exit_code: Mismatch.exit_code} | {
    TOO_MANY_REJECTED: MilvusStreamError.exit_code
}

_ENDED_BEFORE_WORK = {-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT}


def outcome(code: int, *, until_caught_up: bool) -> Outcome:
    """What follows when a worker ends with this code, negative for a signal, without having been stopped."""
    if code in _FINAL:
        return "final"
    return "finished" if code == 0 and until_caught_up else "restart"


def exit_code(code: int) -> int:
    """The exit code of the whole for the code of a worker that ends it, negative for a signal."""
    return _FINAL.get(code, 128 - code if code < 0 else code)


def code_after_stop(code: int) -> int:
    """The exit code that a stopped worker contributes; one that a signal ended before its work began did nothing yet."""
    return 0 if code in _ENDED_BEFORE_WORK else exit_code(code)


@dataclass(slots=True)
class Pauses:
    """The pauses before the starts of one worker: 1 s, doubled after each quick end, at most 60 s."""

    quick_ends: int = 0

    def after(self, ran_s: float, jitter: float) -> float:
        """Seconds to wait after an end that came `ran_s` seconds after the start; `jitter` as in `Backoff`."""
        if ran_s >= STEADY_S:
            self.quick_ends = 0
        self.quick_ends += 1
        return BACKOFF.delay_s(self.quick_ends, jitter)
