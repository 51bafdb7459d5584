"""The vectors of a request that brings its own: checked numbers, as the array that is searched with."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from pipeline.query.request.invalid_request import InvalidRequest

MAX_VECTORS = 32
MAX_DIMENSION = 32_768
"""Milvus's bound of a vector field."""
MIN_LENGTH, MAX_LENGTH = 1e-18, 1e18
"""Milvus squares 32-bit numbers: of a shorter vector nothing remains, a longer one becomes infinite, and it answers
with scores that are no numbers."""
_NUMBERS = "must be a list of numbers, or a list of such lists"


@dataclass(frozen=True, slots=True, eq=False)
class QueryVectors:
    """The vectors of a request."""

    values: NDArray[np.float32]
    """Shape (vectors, dimension), finite, none of them zero."""
    many: bool
    """Whether they came as a list of vectors."""

    def place(self, number: int) -> str:
        """The JSON pointer of a vector in its request."""
        return f"/vector/{number}" if self.many else "/vector"

    def check_dimension(self, dimension: int | None) -> None:
        """Raise InvalidRequest for vectors of another dimension than the collection's; None: it is not known."""
        given = self.values.shape[1]
        if dimension is not None and given != dimension:
            raise InvalidRequest(self.place(0), f"has {given:,} numbers; the collection's vectors have {dimension:,}")


def _vectors(value: object) -> QueryVectors | None:
    if value is None or isinstance(value, QueryVectors):
        return value
    if not isinstance(value, list):
        raise _problem(_NUMBERS)
    if not value:
        raise _problem("must have at least one number")
    if not isinstance(value[0], list):
        return QueryVectors(_vector(value, "")[None], many=False)
    if len(value) > MAX_VECTORS:
        raise _problem(f"holds {len(value):,} vectors; at most {MAX_VECTORS} are allowed")
    rows: list[NDArray[np.float32]] = []
    for number, numbers in enumerate(value):
        at = f"/{number}"
        if not isinstance(numbers, list):
            raise _problem("must be a list of numbers", at)
        rows.append(_vector(numbers, at))
        if len(rows[-1]) != len(rows[0]):
            raise _problem(f"has {len(rows[-1]):,} numbers; the first vector has {len(rows[0]):,}", at)
    return QueryVectors(np.stack(rows), many=True)


def _vector(numbers: list[object], at: str) -> NDArray[np.float32]:
    if not 1 <= len(numbers) <= MAX_DIMENSION:
        raise _problem(f"has {len(numbers):,} numbers; 1 to {MAX_DIMENSION:,} are allowed", at)
    wide = _numbers(numbers)
    if wide is None:
        wide = np.array([_number(number, f"{at}/{index}") for index, number in enumerate(numbers)])
    largest = float(np.abs(wide).max())
    if not largest:
        raise _problem("is zero, which has no direction", at)
    length = largest * math.sqrt(float(np.square(wide / largest).sum()))
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise _problem(f"must have a length (the root of the sum of squares) from {MIN_LENGTH} to {MAX_LENGTH}", at)
    return wide.astype(np.float32)


def _numbers(values: list[object]) -> NDArray[np.float64] | None:
    """All of them at once, or None where one is no finite number: a body may hold half a million."""
    if not set(map(type, values)) <= {int, float}:
        return None
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _number(value: object, at: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise _problem("must be a finite number", at)


def _problem(message: str, at: str = "") -> PydanticCustomError:
    return PydanticCustomError("vector", message, {"at": at})


_ONE: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": MAX_DIMENSION}
Vector = Annotated[
    QueryVectors | None,
    PlainValidator(_vectors),
    PlainSerializer(lambda vectors: None if vectors is None else vectors.values.tolist()),
    WithJsonSchema(
        {
            "anyOf": [
                _ONE,
                {"type": "array", "items": _ONE, "minItems": 1, "maxItems": MAX_VECTORS},
                {"type": "null"},
            ],
        }
    ),
]
"""One vector, or a list of up to 32."""
