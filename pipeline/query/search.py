"""One search over Milvus: plan, find candidates, shape the results, and list what was covered."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import orjson
from numpy.typing import NDArray

from pipeline.errors import NotFound, NotLoaded, Unavailable
from pipeline.query.answer import Mode, Origin, Result, Searched, SearchResult, Skipped
from pipeline.query.candidates import CandidateSearch, FetchSettings
from pipeline.query.fusion import DENSE, KEYWORD
from pipeline.query.partition_index import PartitionIndex
from pipeline.query.partition_list import PartitionList
from pipeline.query.plan import plan_search
from pipeline.query.ranking import metadata_names
from pipeline.query.request.filter_expressions import FilterableFields, balanced, filterable_fields, metadata_reference
from pipeline.query.request.filters import comparisons
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.request.metadata_fields import MetadataNames
from pipeline.query.request.request import FusionOptions, SearchRequest
from pipeline.query.retrievers import DenseRetriever, HybridRetriever, KeywordRetriever, Queries, Retriever
from pipeline.query.tenancy import NamesByTenant
from pipeline.query.version_check import VersionCheck
from pipeline.records import METADATA_FIELD, SPARSE_FIELD, VECTOR_FIELD
from pipeline.store import DEFAULT_PARTITION, CollectionInfo, Hit, MilvusServerApi
from pipeline.timestamps import format_time

_NO_BM25 = "it was created on Milvus older than 2.5, or by another program; search by meaning (mode dense)"
_MOST_NAMES_CHECKED = 16
_SAMPLE = 16
"""Rows read to find out which of several names there are."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How much to read, and for how long a listing holds."""

    fetch: FetchSettings = field(default_factory=FetchSettings)
    max_answer_bytes: int = 8 * 1024 * 1024
    """Most bytes of an answer's results, as JSON."""
    partitions_ttl_s: float = 1.0
    """How long a listing of the Milvus partitions is used again."""
    residency_ttl_s: float = 30.0
    """How long a listing of the loaded partitions is used again; it takes a call for each of them."""
    names_ttl_s: float = 10.0
    """How long a metadata name that no row had counts as missing."""


@dataclass(frozen=True, slots=True)
class _Schema:
    """What was read of the collection."""

    info: CollectionInfo
    one_version: bool


class Searcher:
    """Searches one collection; made once, used by many threads at a time."""

    def __init__(
        self,
        api: MilvusServerApi,
        collection: str,
        settings: SearchSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        accept: Callable[[CollectionInfo], None] = lambda _: None,
        one_version: Callable[[CollectionInfo], bool] = lambda _: True,
    ) -> None:
        """`accept` raises Mismatch for a collection that must not be searched with this query's vectors.

        `one_version`: whether a document of the collection has one current version (mode upsert).
        """
        self._accept = accept
        self._one_version = one_version
        self._api = api
        self._collection = collection
        self._settings = settings or SearchSettings()
        self._clock = clock
        self._dense, self._keyword = DenseRetriever(api), KeywordRetriever(api)
        self._names = NamesByTenant(self._settings.names_ttl_s, clock)
        self._versions = VersionCheck(api, clock)
        self._schema: _Schema | None = None
        self._partitions = PartitionList(
            api, collection, self._settings.partitions_ttl_s, self._settings.residency_ttl_s, clock
        )

    def search(
        self,
        request: SearchRequest,
        vectors: NDArray[np.float32] | None,
        timeout_s: float,
        *,
        now_ms: int,
        tenant: str | None = None,
    ) -> SearchResult:
        """Find the best rows for each query; blocks up to `timeout_s`.

        `vectors` has shape (queries, dimension), and is None where the request's mode is keyword. `now_ms` (epoch
        milliseconds) is what a time range counts back from. `tenant`: whose documents are searched; None: all. Raises
        InvalidRequest (the filter or the mode does not fit the collection, or a text has no direction),
        DeadlinePassed, Unavailable (also while there is no collection), ForeignRow.
        """
        deadline = self._clock() + timeout_s
        if vectors is not None:
            _check_vectors(vectors, request.many)
        run = partial(self._search, request, Queries(request.queries, vectors), deadline, now_ms, tenant=tenant)
        existing = PartitionIndex()
        try:
            existing = self._partitions.listing()
            return run(existing)
        except (NotFound, NotLoaded):
            # Retention may drop a Milvus partition between the listing and the search, an operator release it.
            self._forget()
        except Unavailable:
            self._forget()
            raise
        self._schema = self._describe()
        try:
            remaining = self._partitions.listing()
            result = run(remaining)
        except NotFound as error:
            raise Unavailable(f"Milvus partitions of {self._collection} change too fast: {error}") from error
        dropped = tuple(Skipped(name, "dropped") for name in existing.names if name not in remaining.names)
        searched = Searched(result.searched.partitions, (*result.searched.skipped, *dropped))
        return replace(result, searched=searched)

    def check(self) -> None:
        """Read the collection's schema. Raises Unavailable where Milvus does not answer or has none such, Mismatch."""
        self._schema = self._describe()

    def metadata_names(self, most: int, *, tenant: str | None = None) -> list[str]:
        """Up to `most` metadata names that results of searches for this tenant carried so far; calls nothing."""
        return self._names.of(tenant).known(most)

    def _forget(self) -> None:
        self._schema = None
        self._partitions.forget()

    def _describe(self) -> "_Schema":
        info = self._api.describe(self._collection)
        if info is None or VECTOR_FIELD not in info.indexes:
            raise Unavailable(f"the collection {self._collection} does not exist yet; an ingest worker creates it")
        self._accept(info)
        return _Schema(info, self._one_version(info))

    def _search(
        self,
        request: SearchRequest,
        queries: Queries,
        deadline: float,
        now_ms: int,
        existing: PartitionIndex,
        *,
        tenant: str | None,
    ) -> SearchResult:
        schema = self._schema = self._schema or self._describe()
        mode = self._mode(request, schema.info)
        fields = filterable_fields(schema.info)
        times, released = request.time_range(now_ms), self._partitions.released()
        plan = plan_search(times, request.filter, existing, released, fields, tenant=tenant)
        # As a filter does, the words of a query may hide a newer version that does not have them.
        checked = schema.one_version and (request.hides_rows or mode != "dense")
        search = CandidateSearch(
            self._api,
            self._retriever(mode, request.fusion or FusionOptions()),
            schema.info,
            request,
            queries,
            plan,
            self._settings.fetch,
            schema.one_version,
            checked,
            now_ms,
            deadline,
            self._clock,
            tenant,
        )
        candidates = search.ranked()
        ranked, complete = candidates.hits, candidates.complete
        warnings = tuple(map(_leg_warning, candidates.missing))
        if checked:
            ranked, of_versions = self._versions.current(
                schema.info.name, ranked, limit=request.limit, timeout_s=deadline - self._clock()
            )
            warnings += of_versions
        results: list[list[Result]] = [[] for _ in ranked]
        size = 0
        try:
            for query, hit in search.whole(ranked):
                self._names.of(tenant).learn(metadata_names([hit.fields], fields.declared))
                result = _result(hit, request.fields, frozenset(fields.declared), existing)
                size += len(orjson.dumps(result))
                if size > self._settings.max_answer_bytes:
                    raise self._too_large()
                results[query].append(result)
        except Unavailable:
            if not any(results):
                raise
            complete = False
        return SearchResult(
            results=tuple(map(tuple, results)),
            partial=not complete,
            searched=Searched(plan.covered, plan.skipped),
            warnings=(*self._warnings(search, fields), *warnings),
            mode=mode,
        )

    def _mode(self, request: SearchRequest, info: CollectionInfo) -> Mode:
        """The mode of a request: by words only where the server fills a keyword index."""
        index = info.indexes.get(SPARSE_FIELD)
        if self._api.server.capabilities.bm25 and index is not None and index.metric == "BM25":
            return request.mode or "hybrid"
        if request.mode not in (None, "dense") or request.fusion is not None:
            at = "/mode" if request.mode is not None else "/fusion"
            raise InvalidRequest(
                at, f"needs a keyword index, which the collection {info.name} does not have: {_NO_BM25}"
            )
        return "dense"

    def _retriever(self, mode: Mode, fusion: FusionOptions) -> Retriever:
        match mode:
            case "dense":
                return self._dense
            case "keyword":
                return self._keyword
            case "hybrid":
                return HybridRetriever({DENSE: self._dense, KEYWORD: self._keyword}, fusion.of, self._clock)

    def _too_large(self) -> InvalidRequest:
        bound = f"makes an answer of more than {self._settings.max_answer_bytes:,} bytes"
        return InvalidRequest("/limit", f"{bound}; lower it, send fewer texts, or name the metadata wanted in fields")

    def _warnings(self, search: CandidateSearch, fields: FilterableFields) -> tuple[str, ...]:
        """Name the fields of the filter that no row has: most likely a typing error, which Milvus answers with nothing.

        Not an error: whether a request is right must not depend on which rows have arrived.
        """
        if search.request.filter is None:
            return ()
        used = list(dict.fromkeys(comparison.key for comparison in comparisons(search.request.filter)))
        metadata = [name for name in used if name not in fields.declared][:_MOST_NAMES_CHECKED]
        known = self._names.of(search.tenant)
        try:
            self._look_up(known, known.unknown(metadata), search, fields)
        except (Unavailable, NotFound):
            return ()
        return tuple(self._warning(known, name, fields, search.deadline) for name in known.missing(metadata))

    def _look_up(
        self, known: MetadataNames, names: Sequence[str], search: CandidateSearch, fields: FilterableFields
    ) -> None:
        """Find out with one call which of the names rows carry.

        Rows with one name prove nothing about the others. Those stay unknown until a later request names them alone.
        """
        if not names:
            return
        expression = balanced([f"exists {metadata_reference(name)}" for name in names], "or")
        rows = search.sample(expression, (METADATA_FIELD,), _SAMPLE)
        if rows:
            known.learn(metadata_names(rows, fields.declared))
        else:
            known.learn_missing(names)

    def _warning(self, known: MetadataNames, name: str, fields: FilterableFields, deadline: float) -> str:
        """The warning for a missing name; with the name that was meant, if there is time to find it."""
        filterable = (other for other, field_type in fields.declared.items() if field_type != "other")
        near = known.near(name, filterable) if self._clock() < deadline else None
        hint = f"; did you mean {near!r}?" if near else ""
        return f"the filter names {name!r}, and no row with such a field was found{hint}"


def _leg_warning(name: str) -> str:
    return f"Milvus did not answer the {name} search of this hybrid search: what only that finds is missing"


def _check_vectors(vectors: NDArray[np.float32], many: bool) -> None:
    """Milvus answers a NaN query with nothing and scores a zero vector 0 with every row; neither is an answer."""
    usable = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    for index in np.flatnonzero(~usable):
        at = f"/query/{index}" if many else "/query"
        raise InvalidRequest(at, "has no direction in the model's space; write it in other words")


def _result(hit: Hit, fields: Sequence[str] | None, declared: frozenset[str], existing: PartitionIndex) -> Result:
    row = hit.fields
    names = [name for name in (row if fields is None else fields) if name in row and name not in declared]
    return Result(
        id=hit.id,
        doc_id=row["doc_id"],
        text=row["text"],
        score=hit.score,
        scores=hit.legs,
        event_time=format_time(row["event_time"]),
        chunk=row["chunk"],
        partition=_partition_of(row["event_time"], existing),
        source=Origin(row["kafka_topic"], row["kafka_partition"], row["kafka_offset"]),
        metadata={name: row[name] for name in names if name != METADATA_FIELD},
    )


def _partition_of(event_time: int, existing: PartitionIndex) -> str | None:
    """The Milvus partition that must hold a row of this time; None where two granularities overlap."""
    holding = existing.holding(event_time)
    if len(holding) > 1:
        return None
    return holding[0] if holding else DEFAULT_PARTITION
