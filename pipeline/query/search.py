"""One search over Milvus: plan, over-fetch, group, and say what was covered."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NotFound, NotLoaded, Unavailable
from pipeline.query.answer import Origin, Result, Searched, SearchResult, Skipped, format_time
from pipeline.query.filters import FilterableFields, comparisons, filterable_fields, metadata_reference
from pipeline.query.limits import InvalidRequest, pointer
from pipeline.query.metadata_fields import MetadataNames
from pipeline.query.partition_list import PartitionList
from pipeline.query.plan import SearchPlan, plan
from pipeline.query.ranking import metadata_names, rank, similarity_score
from pipeline.query.request import SearchRequest
from pipeline.records import METADATA_FIELD, ROW_FIELDS, TENANT_FIELD, VECTOR_FIELD
from pipeline.store import (
    DEFAULT_PARTITION,
    CollectionInfo,
    Hit,
    MilvusServerApi,
    VectorSearch,
    interval,
    search_params,
)

_MOST_NAMES_ASKED = 16
_CLOCK_SLACK_S = 0.01
"""gRPC may end a call a moment before its deadline."""


class DeadlinePassed(Unavailable):
    """The request's time ran out before there was any result."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to search."""

    one_version: bool = True
    """Show only the newest version of a document (mode upsert); in append mode every record stays."""
    overfetch: int = 4
    """Rows fetched for each result wanted, as documents have several chunks."""
    max_candidates: int = 4_096
    """Most rows fetched for one query; Milvus's own bound is 16,384."""
    partitions_ttl_s: float = 1.0
    """How long a listing of the Milvus partitions is used again."""
    residency_ttl_s: float = 30.0
    """How long it is taken as known which Milvus partitions are loaded; asking takes a call for each."""
    names_ttl_s: float = 10.0
    """How long a metadata name that no row had counts as missing."""


@dataclass(frozen=True, slots=True)
class _CollectionQuery:
    """One request on its way."""

    request: SearchRequest
    vectors: NDArray[np.float32]
    info: CollectionInfo
    catalogue: FilterableFields
    deadline: float
    """On the searcher's clock, seconds."""


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
    ) -> None:
        """`accept` raises Mismatch for a collection that must not be searched with this query's vectors."""
        self._accept = accept
        self._api = api
        self._collection = collection
        self._settings = settings or SearchSettings()
        self._clock = clock
        self._names = MetadataNames(self._settings.names_ttl_s, clock)
        self._schema: CollectionInfo | None = None
        self._partitions = PartitionList(
            api, collection, self._settings.partitions_ttl_s, self._settings.residency_ttl_s, clock
        )

    def search(self, request: SearchRequest, vectors: NDArray[np.float32], timeout_s: float) -> SearchResult:
        """Find the nearest rows for each query; `vectors` has shape (queries, dimension). Blocks up to `timeout_s`.

        Raises InvalidRequest (the filter does not fit, or a text has no direction), DeadlinePassed, Unavailable (also
        while the collection does not exist).
        """
        deadline = self._clock() + timeout_s
        _check_vectors(vectors, request.many)
        existing: tuple[str, ...] = ()
        try:
            existing = self._partitions.names()
            return self._search(self._ask(request, vectors, deadline), existing)
        except (NotFound, NotLoaded):
            # Retention may drop a Milvus partition between the listing and the search, an operator release it.
            self._forget()
        except Unavailable:
            self._forget()
            raise
        ask = self._ask(request, vectors, deadline)
        try:
            left = self._partitions.names()
            found = self._search(ask, left)
        except NotFound as error:
            raise Unavailable(f"Milvus partitions of {self._collection} change too fast: {error}") from error
        dropped = tuple(Skipped(name, "dropped") for name in existing if name not in set(left))
        searched = Searched(found.searched.partitions, (*found.searched.skipped, *dropped))
        return replace(found, searched=searched)

    def _forget(self) -> None:
        self._schema = None
        self._partitions.forget()

    def check(self) -> None:
        """Ask Milvus for the collection; raises Unavailable where it does not answer or has none such, Mismatch."""
        self._schema = self._describe()

    def _ask(self, request: SearchRequest, vectors: NDArray[np.float32], deadline: float) -> _CollectionQuery:
        if self._schema is None:
            self._schema = self._describe()
        info = self._schema
        return _CollectionQuery(request, vectors, info, filterable_fields(info), deadline)

    def _describe(self) -> CollectionInfo:
        info = self._api.describe(self._collection)
        if info is None or VECTOR_FIELD not in info.indexes:
            raise Unavailable(f"the collection {self._collection} does not exist yet; an ingest worker creates it")
        self._accept(info)
        return info

    def _search(self, ask: _CollectionQuery, existing: Sequence[str]) -> SearchResult:
        request, declared = ask.request, frozenset(ask.catalogue.declared)
        planned = plan(request.time, request.filter, existing, self._partitions.released(), ask.catalogue)
        ranked, complete = self._fetch(ask, planned)
        self._names.learn(name for hits in ranked for name in metadata_names(hits, declared))
        metric = ask.info.indexes[VECTOR_FIELD].metric
        shape = partial(_result, fields=request.fields, declared=declared, metric=metric, existing=existing)
        return SearchResult(
            results=tuple(tuple(shape(hit) for hit in hits) for hits in ranked),
            partial=not complete,
            searched=Searched(planned.covered, planned.skipped),
            warnings=self._warnings(ask),
        )

    def _fetch(self, ask: _CollectionQuery, planned: SearchPlan) -> tuple[list[list[Hit]], bool]:
        """Search with more and more candidates until each query has its results; False: Milvus failed before that."""
        request, settings = ask.request, self._settings
        most = max(request.limit, settings.max_candidates)
        wanted = min(request.limit * settings.overfetch, most)
        # The dynamic field as a whole: Milvus 2.3.5 cannot name keys like `a-b`.
        fields = (*ROW_FIELDS, TENANT_FIELD if request.fields == () else METADATA_FIELD)
        ranked: list[list[Hit]] = []
        while True:
            try:
                found = self._call(ask, ask.vectors, wanted, planned.expression, fields, planned.partitions)
            except Unavailable:
                if not ranked:
                    raise
                return ranked, False
            ranked = [
                rank(hits, group_by=request.group_by, one_version=settings.one_version, limit=request.limit)
                for hits in found
            ]
            pairs = zip(ranked, found, strict=True)
            short = any(len(best) < request.limit and len(hits) >= wanted for best, hits in pairs)
            if not short or wanted >= most:
                return ranked, True
            wanted = min(wanted * settings.overfetch, most)

    def _call(  # noqa: PLR0917 - the search call itself, with what is the same in all of ours filled in
        self,
        ask: _CollectionQuery,
        vectors: NDArray[np.float32],
        limit: int,
        expression: str,
        fields: Sequence[str],
        partitions: Sequence[str] | None,
    ) -> list[list[Hit]]:
        left = ask.deadline - self._clock()
        if left <= 0:
            raise DeadlinePassed("the time of the request ran out; allow more with timeout_ms")
        try:
            return self._api.search(
                self._collection,
                VectorSearch(
                    vectors,
                    limit,
                    expression=expression,
                    fields=fields,
                    partitions=partitions,
                    params=search_params(ask.info.indexes[VECTOR_FIELD], limit),
                    timeout_s=left,
                ),
            )
        except Unavailable as error:
            if self._clock() >= ask.deadline - _CLOCK_SLACK_S:
                raise DeadlinePassed("Milvus did not answer in the time of the request") from error
            raise

    def _warnings(self, ask: _CollectionQuery) -> tuple[str, ...]:
        """Name the fields of the filter that no row has: most likely a typing error, which Milvus answers with nothing.

        Not an error: whether a request is right must not depend on which rows have arrived.
        """
        if ask.request.filter is None:
            return ()
        used = list(dict.fromkeys(leaf.name for leaf in comparisons(ask.request.filter)))
        asked = [name for name in used if name not in ask.catalogue.declared][:_MOST_NAMES_ASKED]

        def exists(name: str) -> bool:
            expression = f"exists {metadata_reference(name)}"
            hits = self._call(ask, ask.vectors[:1], 1, expression, (METADATA_FIELD,), None)[0]
            self._names.learn(metadata_names(hits, ask.catalogue.declared))
            return bool(hits)

        try:
            missing = self._names.missing(asked, exists)
        except (Unavailable, NotFound):
            return ()
        return tuple(self._warning(name, ask.catalogue) for name in missing)

    def _warning(self, name: str, catalogue: FilterableFields) -> str:
        near = self._names.near(name, (field for field, kind in catalogue.declared.items() if kind != "other"))
        hint = f"; did you mean {near!r}?" if near else ""
        return f"the filter names {name!r}, and no row with such a field was found{hint}"


def _check_vectors(vectors: NDArray[np.float32], many: bool) -> None:
    """Milvus answers a NaN query with nothing and scores a zero vector 0 with every row; neither is an answer."""
    usable = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    for index in np.flatnonzero(~usable):
        at = pointer("/query", int(index)) if many else "/query"
        raise InvalidRequest(at, "has no direction in the model's space; write it in other words")


def _result(
    hit: Hit, *, fields: tuple[str, ...] | None, declared: frozenset[str], metric: str, existing: Sequence[str]
) -> Result:
    row = hit.fields
    names = [name for name in (row if fields is None else fields) if name in row and name not in declared]
    return Result(
        id=hit.id,
        doc_id=row["doc_id"],
        text=row["text"],
        score=similarity_score(metric, hit.score),
        event_time=format_time(row["event_time"]),
        chunk=row["chunk"],
        partition=_partition_of(row["event_time"], existing),
        source=Origin(row["kafka_topic"], row["kafka_partition"], row["kafka_offset"]),
        metadata={name: row[name] for name in names if name != METADATA_FIELD},
    )


def _partition_of(event_time: int, existing: Sequence[str]) -> str | None:
    """The Milvus partition that must hold a row of this time; None where two granularities overlap."""
    spans = {name: interval(name) for name in existing}
    holding = [name for name, span in spans.items() if span is None or span[0] <= event_time < span[1]]
    if len(holding) > 1:
        return None
    return holding[0] if holding else DEFAULT_PARTITION
