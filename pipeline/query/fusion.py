"""Fusion of what several retrievers found for one query: the weighted sum of reciprocal ranks. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.store import Hit

DENSE, KEYWORD, ID = "dense", "keyword", "id"
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

    def weight(self, leg: str) -> float:
        """The weight of a leg; 0: it need not be searched."""
        return self.weights.get(leg, 1.0)


def fuse(legs: Mapping[str, Sequence[Hit]], fusion: Fusion) -> list[Hit]:
    """Every row that a leg found, best first; `legs`: each leg's hits by its name, best first.

    The score of a row is the sum of weight / (k + rank) over the legs that found it, ranks from 1, divided by what the
    first row of every leg would get: so it is at most 1. Rows with equal scores keep the order of the legs. A leg of
    weight 0 finds nothing. A hit carries the scores of its legs, and its fields as the last of them read them.
    """
    weights = {name: weight for name in legs if (weight := fusion.weight(name)) > 0}
    fused: dict[str, Hit] = {}
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        for rank, hit in enumerate(legs[name], 1):
            before = fused.get(hit.id)
            score = share * (fusion.k + 1) / (fusion.k + rank) + (before.score if before else 0.0)
            scores = {**(before.legs if before else {}), name: hit.score}
            cosine = hit.cosine if before is None or hit.cosine is not None else before.cosine
            fused[hit.id] = replace(hit, score=score, legs=scores, cosine=cosine)
    return sorted(fused.values(), key=lambda hit: -hit.score)
