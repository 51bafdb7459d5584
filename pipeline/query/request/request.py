"""A search request: pydantic models that check it, and from which OpenAPI is derived.

HTTP, the command line and every other way in use the same models.
"""

import json
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    Tag,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pipeline.query.answer import Mode
from pipeline.query.fusion import DENSE, KEYWORD, Fusion, K
from pipeline.query.recency import Recency
from pipeline.query.request.filters import BoundedFilter, FieldName, StrictModel
from pipeline.query.request.invalid_request import MalformedRequest, first_problem
from pipeline.query.request.term_weights import leg_weights
from pipeline.timestamps import parse_duration, rfc3339_microseconds

DEFAULT_LIMIT = 10
MAX_RESULTS = 1_000
"""Most results of a request unless configured: `limit` times its number of texts. Milvus's own bound is 16,384."""
MAX_QUERIES = 32
MAX_QUERY_CHARS = 8_192
MAX_FIELDS = 64
MIN_TIMEOUT_MS = 10
MAX_TIMEOUT_MS = 60_000
DEFAULT_TIMEOUT_MS = 5_000
MAX_BODY_BYTES = 64 * 1024
_LONGEST = timedelta(days=100 * 366)
_LEAST_WEIGHT = 1e-6
"""Below it a weight other than 0 is a mistake, and its products lose their digits."""


V = TypeVar("V", bound=StrictModel)
M = TypeVar("M", bound="ResultOptions")


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Event times in [from_ms, to_ms), epoch milliseconds; None is open."""

    from_ms: int | None
    to_ms: int | None


@dataclass(frozen=True)
class _Expected:
    """One message for every value that does not fit the annotated type."""

    message: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(handler(source), "expected", custom_error_message=self.message)


def _check_query(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is blank")
    return text


def _duration_ms(value: object) -> int:
    try:
        duration = parse_duration(value) if isinstance(value, str) else timedelta(0)
    except ValueError:
        duration = timedelta(0)
    milliseconds = duration // timedelta(milliseconds=1)
    if milliseconds <= 0 or duration > _LONGEST:
        message = "must be a number above 0 with a unit, such as 90m, 1h30m, 24h or 7d (at most 100 years)"
        raise PydanticCustomError("duration", message)
    return milliseconds


def _time_ms(value: object) -> int | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return rfc3339_microseconds(value) // 1_000
    except ValueError:
        pass
    raise PydanticCustomError("time", "must be an RFC 3339 time such as 2026-11-22T08:30:00Z, or a date")


_Time = Annotated[
    int | None,
    PlainValidator(_time_ms),
    WithJsonSchema(
        {
            "type": ["string", "null"],
            "description": "RFC 3339; without an offset UTC, a date alone is its midnight.",
            "examples": ["2026-11-22", "2026-11-22T08:30:00Z"],
        }
    ),
]
_Duration = Annotated[
    int | None,
    PlainValidator(_duration_ms),
    WithJsonSchema({"type": "string", "examples": ["90m", "1h30m", "24h", "7d"]}),
]


_HalfLife = Annotated[
    int,
    PlainValidator(_duration_ms),
    WithJsonSchema({"type": "string", "examples": ["90m", "12h", "7d"]}),
]


class TimeWindow(StrictModel):
    """Event times, half open: `from` is included, `to` is not. Either `last` alone, or one or both of the others."""

    last: _Duration = None
    """How long ago until now. It has no upper end: producers' clocks may run ahead by the allowed skew."""
    from_: _Time = Field(None, alias="from")
    to: _Time = None

    @model_validator(mode="before")
    @classmethod
    def _check_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and "last" in value and len(value) > 1 and value.keys() <= cls.known_keys.keys():
            raise PydanticCustomError("time_window", "takes either last, or from and to")
        return value

    @model_validator(mode="after")
    def _check_ends(self) -> "TimeWindow":
        if self.last is None and self.from_ is None and self.to is None:
            raise PydanticCustomError("time_window", "needs last, from or to")
        if self.from_ is not None and self.to is not None and self.from_ >= self.to:
            raise PydanticCustomError("time_window", "is empty: from must be before to (to itself is not included)")
        return self

    def range(self, now_ms: int) -> TimeRange:
        """The times meant; `last` counts back from `now_ms` (epoch milliseconds)."""
        return TimeRange(self.from_ if self.last is None else now_ms - self.last, self.to)


def _query_shape(value: object) -> str | None:
    if isinstance(value, str):
        return "text"
    return "texts" if isinstance(value, list) else None


_Query = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARS), AfterValidator(_check_query)]
_Queries = Annotated[list[_Query], Field(min_length=1, max_length=MAX_QUERIES)]


@dataclass(frozen=True)
class Between:
    """A whole number from `low` to `high`, with one message for everything else."""

    low: int
    high: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        message = f"must be a whole number from {self.low:,} to {self.high:,}"
        bounded = core_schema.int_schema(strict=True, ge=self.low, le=self.high)
        return core_schema.custom_error_schema(bounded, "expected", custom_error_message=message)


def _check_weight(weight: float | None) -> float | None:
    if weight and weight < _LEAST_WEIGHT:
        raise ValueError("cannot be compared with another weight")
    return weight


_Weight = Annotated[
    float | None,
    Field(ge=0, le=100, allow_inf_nan=False),
    AfterValidator(_check_weight),
    _Expected(f"must be 0, or from {_LEAST_WEIGHT:f} to 100, or null"),
]


class FusionOptions(StrictModel):
    """How the orders by meaning and by words become one: the weighted sum of reciprocal ranks."""

    k: Annotated[int, Between(1, 1_000)] = K
    """How little the first ranks differ."""
    dense: _Weight = None
    """Weight of the order by meaning; null, like the other: chosen by the query's text."""
    keyword: _Weight = None
    """Weight of the order by words."""

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
            return Fusion(self.k, leg_weights(text))
        return Fusion(self.k, {DENSE: self.dense, KEYWORD: self.keyword})


class RecencyOptions(StrictModel):
    """Prefers newer documents, by their event times."""

    half_life: _HalfLife
    """The age at which half of `weight` is lost."""
    weight: Annotated[
        float, Field(gt=0, le=1, allow_inf_nan=False), _Expected("must be a number above 0, at most 1")
    ] = 0.3
    """The part of a score that depends on the age."""

    @property
    def recency(self) -> Recency:
        """As ranking takes it."""
        return Recency(self.half_life, self.weight)


class TextQuery(StrictModel):
    """What to search for, and how."""

    query: Annotated[
        Annotated[_Query, Tag("text")] | Annotated[_Queries, Tag("texts")],
        Discriminator(
            _query_shape, custom_error_type="query", custom_error_message="must be a text, or a list of texts"
        ),
    ]
    mode: Annotated[Mode | None, _Expected("must be dense, keyword, hybrid or null")] = None
    """By meaning, by exact words, or both; null: both where the collection has a keyword index, else by meaning."""
    fusion: FusionOptions | None = None
    """How both orders become one; only for hybrid."""


class ResultOptions(StrictModel):
    """Which results are wanted: the part of every request that has a list of results for an answer."""

    max_results: ClassVar[int] = MAX_RESULTS

    limit: Annotated[int, Between(1, MAX_RESULTS)] = DEFAULT_LIMIT
    """Most results for each text. The largest limit also bounds the results of all texts together."""
    time: TimeWindow | None = None
    filter: BoundedFilter | None = None
    fields: (
        Annotated[
            list[FieldName],
            Field(max_length=MAX_FIELDS),
            AfterValidator(lambda names: list(dict.fromkeys(names))),
        ]
        | None
    ) = None
    """Names of the metadata wanted in the results; null: all of it."""
    group_by: Annotated[Literal["doc_id"] | None, _Expected('must be "doc_id" or null')] = "doc_id"
    """One result a document (its best chunk), or every chunk that matches."""
    min_score: Annotated[float | None, Field(allow_inf_nan=False), _Expected("must be a finite number, or null")] = None
    """Leave out rows with a lower `score`, before recency. What a score means depends on the mode."""
    recency: RecencyOptions | None = None
    """Prefer newer documents among the best candidates."""
    timeout_ms: Annotated[int, Between(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)] = DEFAULT_TIMEOUT_MS
    """Most milliseconds from the arrival of the request to its answer."""

    @property
    def hides_rows(self) -> bool:
        """Whether a filter or a time range can hide some rows of a document."""
        return self.filter is not None or self.time is not None

    def time_range(self, now_ms: int) -> TimeRange | None:
        """The event times wanted, at the time `now_ms` (epoch milliseconds); None: all."""
        return None if self.time is None else self.time.range(now_ms)


class SearchRequest(ResultOptions, TextQuery):
    """A search for the documents that fit one text or each of several, by meaning, by words, or both."""

    @model_validator(mode="after")
    def _check_fusion(self) -> "SearchRequest":
        if self.fusion is not None and self.mode in ("dense", "keyword"):
            raise PydanticCustomError(
                "fusion", "is for hybrid searches; this one is {mode}", {"mode": self.mode, "at": "/fusion"}
            )
        return self

    @model_validator(mode="after")
    def _check_results(self) -> "SearchRequest":
        texts = len(self.queries)
        if self.limit * texts > self.max_results:
            lower = self.max_results // texts
            advice = f"lower it to {lower:,}" if lower else "send fewer texts"
            raise PydanticCustomError(
                "too_many_results",
                "for {texts} texts means {results} results; at most {most}: {advice}",
                {
                    "texts": texts,
                    "results": f"{self.limit * texts:,}",
                    "most": f"{self.max_results:,}",
                    "advice": advice,
                    "at": "/limit",
                },
            )
        return self

    @property
    def queries(self) -> tuple[str, ...]:
        """The texts."""
        return (self.query,) if isinstance(self.query, str) else tuple(self.query)

    @property
    def many(self) -> bool:
        """Whether the texts came as a list, so that the answer is a list too."""
        return not isinstance(self.query, str)


@cache
def request_model(most: int) -> type[SearchRequest]:
    """The model of the requests to a service that gives at most `most` results."""
    return bounded(SearchRequest, most)


def bounded(model: type[M], most: int) -> type[M]:
    """The model for requests of at most `most` results."""
    description = model.model_fields["limit"].description
    bounds: Any = Annotated[int, Between(1, most), Field(description=description)]
    limit = (bounds, min(DEFAULT_LIMIT, most))
    made = create_model(model.__name__, __base__=model, __doc__=model.__doc__, limit=limit)
    made.max_results = most
    return made


def parse_request(body: object, max_results: int = MAX_RESULTS) -> SearchRequest:
    """Check a decoded JSON body. Raises InvalidRequest that names the place by JSON pointer."""
    return validated(request_model(max_results), body)


def validated(model: type[V], body: object) -> V:
    """The model of a decoded JSON body. Raises InvalidRequest."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise first_problem(error) from None


def decode_json(body: bytes) -> object:
    """JSON as RFC 8259 has it: UTF-8, no NaN, no key twice in one object. Raises MalformedRequest."""

    def refuse(_: str) -> NoReturn:
        raise ValueError("NaN and Infinity are not JSON")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(members := dict(pairs)) != len(pairs):
            raise ValueError("a key is given twice in one object")
        return members

    try:
        decoded: object = json.loads(body.decode(), parse_constant=refuse, object_pairs_hook=once)
    except UnicodeDecodeError:
        raise MalformedRequest("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise MalformedRequest(f"the syntax is wrong at character {error.pos}") from None
    except RecursionError:
        raise MalformedRequest("it is nested too deep") from None
    except ValueError as error:
        raise MalformedRequest(str(error)) from None
    return decoded
