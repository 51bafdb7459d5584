"""Recency: hits of older documents lose a part of their score. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.store import Hit

RECENCY = "recency"
"""The name under which a hit carries its share of recency among its scores."""


@dataclass(frozen=True, slots=True)
class Recency:
    """How fast documents grow old, and how much that counts."""

    half_life_ms: int
    weight: float
    """The part of the score that depends on the age, from 0 to 1."""

    def share(self, event_time_ms: int, now_ms: int) -> float:
        """1 for a document of now or later, 0.5 after a half-life, and so on."""
        return float(2.0 ** (-max(now_ms - event_time_ms, 0) / self.half_life_ms))


def recent_first(hits: Sequence[Hit], recency: Recency, now_ms: int) -> list[Hit]:
    """The hits by their scores less the part that their age takes: weight * (1 - share).

    A negative score, which a cosine can be, grows by that part: the older of two equal hits is never the better one.
    """
    aged = []
    for hit in hits:
        share = recency.share(hit.fields["event_time"], now_ms)
        lost = abs(hit.score) * recency.weight * (1 - share)
        aged.append(replace(hit, score=hit.score - lost, legs={**hit.legs, RECENCY: share}))
    return sorted(aged, key=lambda hit: -hit.score)
