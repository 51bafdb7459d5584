"""The states of a flusher, what waits to become durable and who flushes; and the callbacks by which it reports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pipeline.records import Finished, Receipt
from pipeline.store.flushing.policy import FlushPolicy
from pipeline.store.flushing.shared_marker import PendingOnPeer
from pipeline.telemetry import FlushRole


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing waits to become durable."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """Receipts wait: for the next flush of this worker, or for another worker's."""

    since: float
    """Since when none of this worker's receipts became durable."""
    announced_at: float
    """When another worker last announced a flush; not before `since` if there was none."""


@dataclass(frozen=True, slots=True)
class StandingIn:
    """This worker flushes for all others, because the leader does not, until another one announces a flush."""

    since: float
    """Since when none of this worker's receipts became durable."""


@dataclass(slots=True)
class Flushing:
    """A flush is in progress, or has failed half-way and will be continued."""

    before: Idle | Waiting | StandingIn
    """The state to return to if the flush is given up."""
    role: FlushRole
    pending: PendingOnPeer
    """Receipts that waited for another worker's flush, and become durable by this one."""
    receipts: list[Finished]
    collections: list[str]
    """The collections not flushed yet."""

    def __len__(self) -> int:
        return len(self.pending) + len(self.receipts)


State: TypeAlias = Idle | Waiting | StandingIn | Flushing


def takes_over(state: State, policy: FlushPolicy, now: float, spacing_s: float) -> bool:
    """Whether a worker in this state, with a flush due, flushes although another one leads."""
    match state:
        case StandingIn():
            return True
        case Waiting(since, announced_at):
            return policy.must_take_over(since, announced_at, now, spacing_s)
        case _:
            return False


def after_ack(state: State, waiting: bool, now: float) -> State:
    """The state when something more was acknowledged; `waiting`: whether something waited for a flush before."""
    match state:
        case Idle():
            return Waiting(now, now)
        case Waiting() if not waiting:  # what it waited for was dropped
            return Waiting(now, now)
        case StandingIn() if not waiting:
            return StandingIn(now)
        case _:
            return state


def after_announcement(state: State, waiting: bool, now: float) -> State:
    """The state when another worker, or this one as the leader, has announced a flush: nobody needs to stand in."""
    if isinstance(state, Waiting | StandingIn):
        return Waiting(state.since, now) if waiting else Idle()
    return state


def after_durable(state: State, waiting: bool, now: float) -> State:
    """The state when receipts became durable: what remains waits from now on."""
    if isinstance(state, StandingIn):
        return StandingIn(now)
    return Waiting(now, now) if waiting else Idle()


def nothing_durable_since(state: State) -> float | None:
    """Since when none of this worker's receipts became durable; None while nothing waits."""
    match state:
        case Flushing(before=before):
            return nothing_durable_since(before)
        case Waiting(since=since) | StandingIn(since=since):
            return since
        case _:
            return None


OnDurable = Callable[[Sequence[Finished]], None]
OnAcked = Callable[[Receipt, int], None]
"""Called with a receipt and its rows."""
OnFlush = Callable[[FlushRole, bool], None]
"""Called at the end of every attempt of a flush with its role, and whether it succeeded."""


def ignore_flush(role: FlushRole, ok: bool) -> None:
    """The `on_flush` that does nothing."""
