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
    "flush refused",
    "dead letters refused",
    "kill broker",
    "kill milvus",
    "kill everything",
]
WHOLE_SYSTEM: tuple[Kind, ...] = ("kill broker", "kill milvus", "kill everything", "flush refused")
"""While one of these is on, nothing can be committed by anybody."""

_WEIGHTS: dict[Kind, int] = {
    "kill worker": 5,
    "freeze worker": 3,
    "add worker": 2,
    "remove worker": 3,
    "delay": 3,
    "blackhole": 3,
    "reset": 3,
    "cut replies": 4,
    "flush refused": 1,
    "dead letters refused": 2,
}
MILVUS_AWAY_S = 100.0
"""From a kill -9 of Milvus to its first answers and a little more: etcd keeps the dead server's lease for 30 s."""
_FIRST_S = 6.0
_QUIET_END_S = 8.0


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


def plan(seed: int, seconds: float, slots: int, session_s: float) -> list[Event]:
    """The faults of a run, in order: one every few seconds, and the great ones at their places."""
    rng = random.Random(seed)
    great = _great(rng, seconds)
    events = []
    at_s = _FIRST_S
    while at_s < seconds - _QUIET_END_S:
        blocked = next((each for each in great if each.at_s - 2 <= at_s < each.at_s + each.seconds), None)
        if blocked is not None and blocked.kind == "kill milvus":
            at_s = blocked.at_s + blocked.seconds  # whatever else happens then cannot be told from it
            continue
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
        "flush refused": rng.uniform(5.0, 12.0),
        "dead letters refused": rng.uniform(4.0, 10.0),
    }
    link: Literal["kafka", "milvus"] = "kafka" if rng.random() < 0.4 else "milvus"
    return Event(at_s, kind, lasting.get(kind, 0.0), rng.randrange(slots), link, rng.random())


def _great(rng: random.Random, seconds: float) -> list[Event]:
    """Faults of the servers, and the end of all workers at once, after which what is stored is looked at."""
    found = [Event(seconds * rng.uniform(0.2, 0.25), "kill broker", rng.uniform(2.0, 8.0), 0, "kafka", 0.0)]
    found.append(Event(seconds * rng.uniform(0.5, 0.55), "kill everything", 1.0, 0, "kafka", 0.0))
    if seconds >= 240:
        found.append(Event(seconds * rng.uniform(0.6, 0.65), "kill milvus", MILVUS_AWAY_S, 0, "milvus", 0.0))
    if seconds >= 480:
        found.append(Event(seconds * rng.uniform(0.27, 0.28), "kill milvus", MILVUS_AWAY_S, 0, "milvus", 0.0))
        found.append(Event(seconds * rng.uniform(0.85, 0.92), "kill broker", rng.uniform(2.0, 8.0), 0, "kafka", 0.0))
    return found
