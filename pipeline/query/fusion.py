"""Fusion of what several retrievers found for one query: the weighted sum of reciprocal ranks. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.store import Hit

DENSE, KEYWORD = "dense", "keyword"
"""Names of the legs of a hybrid search."""
K = 60
"""How little the first ranks differ: 60 as in Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms
Condorcet and individual rank learning methods" (SIGIR 2009)."""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How ranks become one order."""

    k: int = K
    weights: Mapping[str, float] = field(default_factory=dict)
    """By the name of the leg; a leg without one has 1. Not negative, and not all zero."""


def fuse(legs: Mapping[str, Sequence[Hit]], fusion: Fusion) -> list[Hit]:
    """Every row that a leg found, best first; `legs`: each leg's hits by its name, best first.

    The score of a row is the sum of weight / (k + rank) over the legs that found it, ranks from 1, divided by what the
    first row of every leg would get: so it lies above 0 and is at most 1. Rows with equal scores keep the order of the
    legs. A hit carries the scores of its legs.
    """
    weights = {name: fusion.weights.get(name, 1.0) for name in legs}
    most = sum(weights.values()) / (fusion.k + 1)
    found: dict[str, Hit] = {}
    for name, hits in legs.items():
        for rank, hit in enumerate(hits, 1):
            known = found.get(hit.id) or replace(hit, score=0.0)
            score = known.score + weights[name] / (fusion.k + rank) / most
            found[hit.id] = replace(known, score=score, legs={**known.legs, name: hit.score})
    return sorted((hit for hit in found.values() if hit.score > 0), key=lambda hit: -hit.score)
