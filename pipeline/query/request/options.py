"""How a request is searched and its results ordered: fusion of both orders, recency, parameters of the index."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pipeline.query.fusion import DENSE, ID, KEYWORD, Fusion, K
from pipeline.query.recency import Recency
from pipeline.query.request.filters import StrictModel
from pipeline.query.request.invalid_request import pointer
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


_MOST_PARAMETERS = 16
_PARAMETER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def _check_parameters(value: object) -> dict[str, Any] | None:
    """Check the form alone; the collection's type of index decides about names and ranges."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PydanticCustomError("params", 'must be an object such as {"ef": 128}')
    if len(value) > _MOST_PARAMETERS:
        raise PydanticCustomError("params", "holds more than {most} parameters", {"most": _MOST_PARAMETERS})
    for name, setting in value.items():
        if not _PARAMETER_NAME.fullmatch(name):
            raise PydanticCustomError("params", "has a key that is no name of a parameter, such as ef")
        if not isinstance(setting, bool | int | str):
            problem = "must be a whole number or a word"
            raise PydanticCustomError("params", problem, {"at": pointer("", name)})
    return value


IndexParameters = Annotated[
    dict[str, Any] | None,
    PlainValidator(_check_parameters),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": {"type": ["integer", "string", "boolean"]},
                    "propertyNames": {"pattern": f"^{_PARAMETER_NAME.pattern}$"},
                    "maxProperties": _MOST_PARAMETERS,
                    "examples": [{"ef": 128}, {"nprobe": 32}],
                },
                {"type": "null"},
            ]
        }
    ),
]
"""Parameters of a search in an index, by name."""
