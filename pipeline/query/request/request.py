"""A search request: pydantic models that check it, and from which OpenAPI is derived.

HTTP, the command line and every other way in use the same models.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import override

from pipeline.query.answer import Mode
from pipeline.query.request.body import parse_body
from pipeline.query.request.filters import BoundedFilter, FieldName, StrictModel
from pipeline.query.request.freshness import FreshnessOptions
from pipeline.query.request.options import FusionOptions, IndexParameters, RecencyOptions
from pipeline.query.request.rerank import MAX_CANDIDATES, Rerank, RerankOptions
from pipeline.query.request.value_types import Between, Duration, Expected, Time
from pipeline.query.request.vectors import MAX_VECTORS, Vector

DEFAULT_LIMIT = 10
MAX_RESULTS = 1_000
"""Most results of a request unless configured: `limit` times its texts times `group_size`. Milvus's bound is 16,384."""
MAX_QUERIES = MAX_VECTORS
MAX_QUERY_CHARS = 8_192
MAX_FIELDS = 64
MAX_FACETS = 5
MIN_TIMEOUT_MS = 10
MAX_TIMEOUT_MS = 60_000
DEFAULT_TIMEOUT_MS = 5_000
MAX_GROUP_SIZE = 10
MAX_BODY_BYTES = 64 * 1024
"""Of a request without vectors of its own."""
MAX_SEARCH_BODY_BYTES = 1024 * 1024
"""32 vectors of 1,024 numbers with all their digits are some 700 KiB."""


M = TypeVar("M", bound="ResultOptions")


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Event times in [from_ms, to_ms), epoch milliseconds; None is open."""

    from_ms: int | None
    to_ms: int | None


def _check_query(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "is blank")
    return text


FacetNames = (
    Annotated[
        list[FieldName],
        Field(min_length=1, max_length=MAX_FACETS),
        AfterValidator(lambda names: list(dict.fromkeys(names))),
    ]
    | None
)


class TimeWindow(StrictModel):
    """Event times, half open: `from` is included, `to` is not. Either `last` alone, or one or both of the others."""

    last: Duration = None
    """How long ago until now. It has no upper end: producers' clocks may run ahead by the allowed skew."""
    from_: Time = Field(None, alias="from")
    to: Time = None

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


_NO_TEXT = "must be a text, or a list of texts"


def _query_shape(value: object) -> str | None:
    if isinstance(value, str):
        return "text"
    return "texts" if isinstance(value, list) else None


_Query = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARS), AfterValidator(_check_query)]
_Queries = Annotated[list[_Query], Field(min_length=1, max_length=MAX_QUERIES)]


class TextQuery(StrictModel):
    """What to search for, and how."""

    query: (
        Annotated[
            Annotated[_Query, Tag("text")] | Annotated[_Queries, Tag("texts")],
            Discriminator(_query_shape, custom_error_type="query", custom_error_message=_NO_TEXT),
        ]
        | None
    ) = None
    """What to look for; not needed where `vector` is given and words are not searched."""
    vector: Vector = None
    """The vectors to search with, of the collection's dimension; nothing is embedded then. One, or a list; beside texts
    as many as those."""
    mode: Annotated[Mode | None, Expected("must be dense, keyword, hybrid or null")] = None
    """By meaning, by exact words, or both; null: both where the collection has a keyword index, else by meaning."""
    fusion: FusionOptions | None = None
    """How both orders become one; only for hybrid."""
    params: IndexParameters = None
    """Parameters of the search by vectors, such as `ef`, as the collection's type of index has them."""


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
    group_by: Annotated[Literal["doc_id"] | None, Expected('must be "doc_id" or null')] = "doc_id"
    """One result a document (its best chunk), or every chunk that matches."""
    group_size: Annotated[int, Between(1, MAX_GROUP_SIZE)] = 1
    """Most chunks of a document, the best first; `limit` counts documents."""
    min_score: Annotated[float | None, Field(allow_inf_nan=False), Expected("must be a finite number, or null")] = None
    """Leave out rows with a lower `score`, before recency. What a score means depends on the mode."""
    recency: RecencyOptions | None = None
    """Prefer newer documents among the best candidates."""
    timeout_ms: Annotated[int, Between(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)] = DEFAULT_TIMEOUT_MS
    """Most milliseconds from the arrival of the request to its answer."""

    @model_validator(mode="after")
    def _check_group_size(self) -> Self:
        if self.group_size > 1 and self.group_by is None:
            message = "is for results by document; with group_by null every chunk is one"
            raise PydanticCustomError("group_size", message, {"at": "/group_size"})
        return self

    @model_validator(mode="after")
    def _check_results(self) -> Self:
        texts, chunks = self.texts, self.group_size
        results = self.limit * texts * chunks
        if results > self.max_results:
            lower = self.max_results // (texts * chunks)
            fewer = "send fewer texts" if chunks == 1 else "send fewer texts, or lower group_size"
            message = "for {texts} texts means {results} results; at most {most}: {advice}"
            if chunks > 1:
                message = (
                    "for {texts} texts with {chunks} chunks each means {results} results; at most {most}: {advice}"
                )
            context = {
                "texts": texts,
                "chunks": chunks,
                "results": f"{results:,}",
                "most": f"{self.max_results:,}",
                "advice": f"lower it to {lower:,}" if lower else fewer,
                "at": "/limit",
            }
            raise PydanticCustomError("too_many_results", message, context)
        return self

    @property
    def texts(self) -> int:
        """How many lists of results the answer has."""
        return 1

    @property
    def hides_rows(self) -> bool:
        """Whether a filter or a time range can hide some rows of a document."""
        return self.filter is not None or self.time is not None

    def time_range(self, now_ms: int) -> TimeRange | None:
        """The event times wanted, at the time `now_ms` (epoch milliseconds); None: all."""
        return None if self.time is None else self.time.range(now_ms)


class SearchRequest(ResultOptions, TextQuery):
    """A search for the documents that fit one text or each of several, by meaning, by words, or both."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["query"]}, {"required": ["vector"]}]})

    highlights: Annotated[bool, Expected("must be true or false")] = False
    """Say where the terms of the query are in each text, and which sentence fits best."""
    facets: FacetNames = None
    """Names of metadata whose values are counted, over all rows that the filter and the time range leave."""
    freshness: FreshnessOptions | None = None
    """How fresh the answer must be; null: bounded."""
    explain: Annotated[bool, Expected("must be true or false")] = False
    """Add to the answer how it was found."""
    rerank: Rerank | None = None
    """Let a reranker order the best candidates; null: as the service is configured."""
    count: Annotated[bool, Expected("must be true or false")] = False
    """Add to the answer how many rows the filter and the time range match, whatever the query."""

    @model_validator(mode="before")
    @classmethod
    def _check_query_or_vector(cls, value: Any) -> Any:
        """Name what is missing before anything else that is wrong, but after a misspelt key: that may be the reason."""
        if not isinstance(value, dict) or not value.keys() <= cls.known_keys.keys() or value.get("query") is not None:
            return value
        if value.get("vector") is None:
            missing = f"is missing: {_NO_TEXT.removeprefix('must be ')}; or a vector in its place"
        elif value.get("mode") in ("keyword", "hybrid"):
            missing = "is missing: a {mode} search needs a text beside the vector"
        else:
            return value
        message = _NO_TEXT if value.get("vector") is None and "query" in value else missing
        raise PydanticCustomError("query", message, {"mode": str(value.get("mode")), "at": "/query"})

    @model_validator(mode="after")
    def _check_vector(self) -> "SearchRequest":
        if self.vector is None:
            return self
        if self.mode == "keyword":
            raise PydanticCustomError("vector", "is not for keyword searches, which compare words", {"at": "/vector"})
        if isinstance(self.query, str) and self.vector.many:
            raise PydanticCustomError("vector", "must be one vector, as query is one text", {"at": "/vector"})
        if isinstance(self.query, list) and (not self.vector.many or len(self.vector.values) != len(self.query)):
            expected = "must be a list of {texts} vectors, one for each text"
            raise PydanticCustomError("vector", expected, {"texts": len(self.query), "at": "/vector"})
        return self

    @model_validator(mode="after")
    def _check_options(self) -> "SearchRequest":
        mode = self.mode_wanted
        if self.fusion is not None and mode in ("dense", "keyword"):
            raise PydanticCustomError(
                "fusion", "is for hybrid searches; this one is {mode}", {"mode": mode, "at": "/fusion"}
            )
        if self.params is not None and mode == "keyword":
            message = "is for searches by vectors; this one is by words"
            raise PydanticCustomError("params", message, {"at": "/params"})
        return self

    @model_validator(mode="after")
    def _check_rerank(self) -> "SearchRequest":
        if not self.rerank:
            return self
        if self.query is None:
            message = "needs a text in query: a reranker reads it"
            raise PydanticCustomError("rerank", message, {"at": "/rerank"})
        options = self.rerank if isinstance(self.rerank, RerankOptions) else RerankOptions()
        if options.window(self.limit, self.texts * self.group_size) is None:
            message = "takes at most {most} chunks, of all texts together: lower top and limit, or send fewer texts"
            raise PydanticCustomError("rerank", message, {"most": MAX_CANDIDATES, "at": "/rerank"})
        return self

    @property
    def queries(self) -> tuple[str, ...]:
        """The texts; an empty one for each vector that comes without."""
        if self.query is None:
            return ("",) * (0 if self.vector is None else len(self.vector.values))
        return (self.query,) if isinstance(self.query, str) else tuple(self.query)

    @property
    @override
    def texts(self) -> int:
        return len(self.queries)

    @property
    def many(self) -> bool:
        """Whether the texts or vectors came as a list, so that the answer is a list too."""
        return isinstance(self.query, list) or (self.query is None and self.vector is not None and self.vector.many)

    @property
    def mode_wanted(self) -> Mode | None:
        """The mode; of a vector without a text it is dense. None: what the collection can do decides."""
        return "dense" if self.mode is None and self.query is None else self.mode

    @property
    def waits(self) -> bool:
        """Whether the search waits for records."""
        return self.freshness is not None and bool(self.freshness.wait_for)

    @property
    def strong(self) -> bool:
        """Whether the search must see every write that Milvus has acknowledged."""
        return self.freshness is not None and self.freshness.strong

    @property
    def embeds(self) -> bool:
        """Whether a model must embed the texts."""
        return self.mode != "keyword" and self.vector is None


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
    return parse_body(request_model(max_results), body)
