"""How results are ordered, as a request gives it: fusion of both orders, and recency."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.query.fusion import DENSE, ID, KEYWORD, Fusion, K
from pipeline.query.recency import Recency
from pipeline.query.request.filters import StrictModel
from pipeline.query.request.term_weights import leg_weights
from pipeline.query.request.value_types import Between, Expected, HalfLife

_LEAST_WEIGHT = 1e-6
"""Below it a weight other than 0 is a mistake, and its products lose their digits."""


def _check_weight(weight: float | None) -> float | None:
    if weight and weight < _LEAST_WEIGHT:
        raise ValueError("cannot be compared with another weight")
    return weight


_Weight = Annotated[
    float | None,
    Field(ge=0, le=100, allow_inf_nan=False),
    AfterValidator(_check_weight),
    Expected(f"must be 0, or from {_LEAST_WEIGHT:f} to 100, or null"),
]


class FusionOptions(StrictModel):
    """How the orders by meaning and by words become one: the weighted sum of reciprocal ranks."""

    k: Annotated[int, Between(1, 1_000)] = K
    """How little the first ranks differ."""
    dense: _Weight = None
    """Weight of the order by meaning; null, like the other: chosen by the query's text."""
    keyword: _Weight = None
    """Weight of the order by words."""
    id: _Weight = None
    """Weight of documents whose id is in the query; null: twice that of both orders, so that they are the first."""

    @model_validator(mode="after")
    def _check_weights(self) -> "FusionOptions":
        if (self.dense is None) != (self.keyword is None):
            raise PydanticCustomError("weights", "takes both weights, dense and keyword, or none")
        if self.dense == self.keyword == 0:
            raise PydanticCustomError("weights", "has two weights of 0, so nothing would be found")
        return self

    def of(self, text: str) -> Fusion:
        """The fusion for a query."""
        if self.dense is None or self.keyword is None:
            weights = dict(leg_weights(text))
        else:
            weights = {DENSE: self.dense, KEYWORD: self.keyword}
        return Fusion(self.k, {**weights, ID: 2 * sum(weights.values()) if self.id is None else self.id})


class RecencyOptions(StrictModel):
    """Prefers newer documents, by their event times."""

    half_life: HalfLife
    """The age at which half of `weight` is lost."""
    weight: Annotated[
        float, Field(gt=0, le=1, allow_inf_nan=False), Expected("must be a number above 0, at most 1")
    ] = 0.3
    """The part of a score that depends on the age."""

    @property
    def recency(self) -> Recency:
        """As ranking takes it."""
        return Recency(self.half_life, self.weight)
