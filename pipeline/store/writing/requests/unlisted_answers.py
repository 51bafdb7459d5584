"""Upserts that Milvus answers in words that no table lists: what is repeated, split, set aside and refused.

An outage may answer so, and so may a server that does not take a row. Another upsert of the same collection that is
accepted between two refusals shows that the server works, so that it is the row.
"""

import re
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

K = TypeVar("K")

_NUMBER_OR_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|\d+")
_MAX_KNOWN = 100
_FORGOTTEN_S = 3600.0


@dataclass(frozen=True, slots=True)
class UnlistedPolicy:
    """When an answer in unlisted words counts as a refusal of a row."""

    split_after: int = 3
    """Times that a whole request is repeated first: most troubles of a server are over by then."""
    times: int = 8
    """Refusals of a document alone, between each two of which others were accepted. A server that fails every second
    call by chance refuses one document in 256 so often."""
    over_s: float = 60.0
    """Shortest time from the first refusal to the last: longer than a server takes to restart."""
    outage_requests: int = 3
    """Requests in a row of which no document was accepted, after which all refusals count as an outage."""
    unproven_s: float = 600.0
    """The same for a single document, while nothing else is written that could be accepted."""


UNLISTED = UnlistedPolicy()


class Verdict(Enum):
    """What to do with a refused request."""

    REPEAT = "raise the error: the caller repeats the request, as in an outage"
    SPLIT = "send its halves"
    SET_ASIDE = "go on without the document and try it again later"
    REFUSE = "the document can never be stored"


@dataclass(slots=True)
class _Suspect:
    first_s: float
    accepted: int
    """The count of accepted upserts when it was last counted as refused alone."""
    proven_s: float
    """When it was last counted: since then nothing was accepted."""
    requests: int = 0
    alone: int = 0


class UnlistedAnswers(Generic[K]):
    """The suspects of one collection, by the owner of their rows. Any thread may call any method.

    1. The first refusals of a request are repeated whole.
    2. Then it is split, down to single documents. Words that have refused a document before are split at once.
    3. A document refused alone is set aside, so that it does not hold up the others.
    4. It is refused for good when that has happened `times` times over `over_s`, and others were accepted in between.
    5. While nothing is accepted, only the first `outage_requests` requests are split, and a document alone is set aside
       for at most `unproven_s`; after that every refusal is raised: it is an outage, in which nothing is refused.
    """

    def __init__(self, policy: UnlistedPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._lock = threading.Lock()
        self._suspects: dict[K, _Suspect] = {}
        self._accepted = 0
        self._fruitless: set[K] = set()
        """First owners of the requests split since the last accepted upsert."""
        self._known: set[str] = set()

    def accepted(self, owners: Collection[K]) -> None:
        """Record an upsert that the server has acknowledged."""
        self._accepted += 1  # without the lock: a count that is missed only delays a verdict
        if not self._suspects and not self._fruitless:
            return
        with self._lock:
            self._fruitless.clear()
            for owner in owners:
                self._suspects.pop(owner, None)

    def refused(self, owners: Collection[K], words: str, *, part: bool) -> Verdict:
        """Record a refused request with the rows of these owners, and decide. `part`: it is a part of a split one."""
        now = self._clock()
        with self._lock:
            suspects = [self._suspect(owner, now) for owner in owners]
            if not part:
                for suspect in suspects:
                    suspect.requests += 1
                if not self._may_split(next(iter(owners)), suspects, words):
                    return Verdict.REPEAT
            if len(suspects) > 1:
                return Verdict.SPLIT
            return self._alone(next(iter(owners)), suspects[0], words, now)

    def _may_split(self, first: K, suspects: Collection[_Suspect], words: str) -> bool:
        known = _shape(words) in self._known
        if not known and max(suspect.requests for suspect in suspects) <= self._policy.split_after:
            return False
        if first not in self._fruitless and len(self._fruitless) >= self._policy.outage_requests:
            return False
        self._fruitless.add(first)
        return True

    def _alone(self, owner: K, suspect: _Suspect, words: str, now: float) -> Verdict:
        if not suspect.alone or self._accepted > suspect.accepted:
            suspect.alone += 1
            suspect.accepted, suspect.proven_s = self._accepted, now
        if suspect.alone >= self._policy.times and now - suspect.first_s >= self._policy.over_s:
            del self._suspects[owner]
            if len(self._known) < _MAX_KNOWN:
                self._known.add(_shape(words))
            return Verdict.REFUSE
        if now - suspect.proven_s > self._policy.unproven_s:
            return Verdict.REPEAT
        return Verdict.SET_ASIDE

    def _suspect(self, owner: K, now: float) -> _Suspect:
        suspect = self._suspects.get(owner)
        if suspect is None:
            # The oldest ones belong to batches that went to another worker.
            while self._suspects and now - next(iter(self._suspects.values())).first_s > _FORGOTTEN_S:
                del self._suspects[next(iter(self._suspects))]
            suspect = self._suspects[owner] = _Suspect(now, self._accepted, now)
        return suspect


def _shape(words: str) -> str:
    """The words without the values in them."""
    return _NUMBER_OR_QUOTED.sub("", words)
