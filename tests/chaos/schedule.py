"""Which fault strikes when: decided by the seed before anything starts."""

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "kill worker",
    "freeze worker",
    "add worker",
    "remove worker",
    "delay",
    "blackhole",
    "reset",
    "cut replies",
    "link down in a rebalance",
    "clock jump",
    "flush refused",
    "flush hangs",
    "writes limited",
    "dead letters refused",
    "freeze broker",
    "freeze milvus",
    "add kafka partitions",
    "change chunking",
    "replay",
    "audit",
    "kill broker",
    "kill milvus",
    "power loss of milvus",
    "disk full: kafka",
    "kill everything",
    "repair",
]
BROKER: frozenset[Kind] = frozenset({"kill broker", "freeze broker", "disk full: kafka"})
MILVUS: frozenset[Kind] = frozenset({"kill milvus", "freeze milvus", "power loss of milvus"})
FLUSHES: frozenset[Kind] = frozenset({"flush refused", "flush hangs", "power loss of milvus"})
WHOLE_SYSTEM: frozenset[Kind] = BROKER | MILVUS | FLUSHES | {"kill everything", "repair", "writes limited"}
"""While one of these is on, nothing can be committed by anybody."""
LINKS: frozenset[Kind] = frozenset({"delay", "blackhole", "reset", "cut replies"})

_WEIGHTS: dict[Kind, int] = {
    "kill worker": 5,
    "freeze worker": 3,
    "add worker": 2,
    "remove worker": 3,
    "delay": 3,
    "blackhole": 3,
    "reset": 3,
    "cut replies": 4,
    "link down in a rebalance": 4,
    "clock jump": 3,
    "flush refused": 1,
    "flush hangs": 2,
    "writes limited": 2,
    "dead letters refused": 2,
    "freeze broker": 1,
    "freeze milvus": 2,
    "add kafka partitions": 1,
    "change chunking": 1,
    "replay": 2,
    "audit": 1,
}
MILVUS_AWAY_S = 100.0
"""From a kill -9 of Milvus to its first answers and a little more: etcd keeps the dead server's lease for 30 s."""
_FIRST_S = 6.0
_QUIET_END_S = 8.0
_LONG_S, _LONGER_S = 240.0, 480.0


@dataclass(frozen=True, slots=True)
class Event:
    """One fault; `slot` and `link` where it strikes one worker."""

    at_s: float
    kind: Kind
    seconds: float
    """How long it lasts; a killed worker is replaced after that."""
    slot: int
    link: Literal["kafka", "milvus"]
    number: float
    """In [0, 1): sizes what the kind leaves open (how long a delay, after how many bytes a reply is cut)."""


def plan(seed: int, seconds: float, slots: int, session_s: float, *, disks: bool) -> list[Event]:
    """The faults of a run, in order: one every few seconds, whatever else is on, and the great ones at their places.

    `disks`: the broker's disk can be full. Milvus 2.3.5 loses flushed deletes by itself then: that is a scenario.
    """
    rng = random.Random(seed)
    great = _great(rng, seconds, disks=disks)
    events = []
    at_s = _FIRST_S
    while at_s < seconds - _QUIET_END_S:
        kind = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        events.append(_event(rng, at_s, kind, slots, session_s))
        at_s += rng.uniform(3.0, 8.0)
    return sorted([*events, *great], key=lambda event: event.at_s)


def _event(rng: random.Random, at_s: float, kind: Kind, slots: int, session_s: float) -> Event:
    lasting = {
        "kill worker": rng.uniform(0.5, 4.0),
        "freeze worker": 1.5 * session_s,
        "delay": rng.uniform(4.0, 10.0),
        "blackhole": rng.uniform(3.0, 15.0),
        "reset": rng.uniform(1.0, 6.0),
        "cut replies": rng.uniform(1.0, 6.0),
        # The link is back when the others have shared out what the member had.
        "link down in a rebalance": session_s + rng.uniform(2.0, 8.0),
        "clock jump": rng.uniform(5.0, 30.0),
        "flush refused": rng.uniform(5.0, 12.0),
        "flush hangs": rng.uniform(10.0, 40.0),
        "writes limited": rng.uniform(3.0, 10.0),
        "dead letters refused": rng.uniform(4.0, 10.0),
        "freeze broker": rng.uniform(2.0, 1.3 * session_s),
        "freeze milvus": rng.uniform(2.0, 20.0),
    }
    link: Literal["kafka", "milvus"] = "kafka" if rng.random() < 0.4 else "milvus"
    return Event(at_s, kind, lasting.get(kind, 0.0), rng.randrange(slots), link, rng.random())


def _great(rng: random.Random, seconds: float, *, disks: bool) -> list[Event]:
    """Faults of the servers, and the end of all workers at once, after which what is stored is compared.

    Two that end Milvus are never on at the same time; whatever else may be.
    """

    def event(kind: Kind, earliest: float, lasting: float) -> Event:
        return Event(seconds * rng.uniform(earliest, earliest + 0.03), kind, lasting, 0, "kafka", rng.random())

    if seconds < _LONG_S:
        return [event("kill broker", 0.2, rng.uniform(2.0, 8.0)), event("kill everything", 0.5, 1.0)]
    found = [event("kill broker", 0.1, rng.uniform(2.0, 8.0)), event("repair", 0.85, rng.uniform(1.0, 12.0))]
    ends: list[Kind] = ["kill milvus", "power loss of milvus"]
    if seconds < _LONGER_S:
        return [
            *found,
            event(rng.choice(ends), 0.2, MILVUS_AWAY_S),
            event("kill everything", 0.7, 1.0),
        ]
    first, second = rng.sample(ends, len(ends))
    found += [
        event(first, 0.17, MILVUS_AWAY_S),
        event("kill everything", 0.45, 1.0),
        event(second, 0.58, MILVUS_AWAY_S),
        event("kill broker", 0.8, rng.uniform(2.0, 8.0)),
    ]
    return [*found, event("disk full: kafka", 0.5, rng.uniform(2.0, 8.0))] if disks else found
