"""Relevance: how likely a result has to do with the query, from 0 to 1, whatever the model's own scale is. Pure."""

import math
from dataclasses import dataclass

from pipeline.embedding import UnrelatedSimilarity

_STEEPNESS = 4.0
"""So that the usual similarity of unrelated texts has a relevance of 0.018."""


@dataclass(frozen=True, slots=True)
class RelevanceScale:
    """From the cosine of a query and a text to a relevance, by what the model gives unrelated texts."""

    unrelated: UnrelatedSimilarity

    def of(self, cosine: float) -> float:
        """0.5 at the similarity that unrelated texts rarely exceed; higher for a higher cosine; from 0 to 1."""
        spread = self.unrelated.rare - self.unrelated.usual
        return 0.5 * (1.0 + math.tanh(0.5 * _STEEPNESS * (cosine - self.unrelated.rare) / spread))
