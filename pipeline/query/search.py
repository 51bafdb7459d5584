"""One search over Milvus: plan, fetch, shape the results, and say what was covered."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import orjson
from numpy.typing import NDArray

from pipeline.errors import NotFound, NotLoaded, Unavailable
from pipeline.query.answer import Origin, Result, Searched, SearchResult, Skipped, format_time
from pipeline.query.fetch import Fetch, FetchSettings
from pipeline.query.filters import FilterableFields, balanced, comparisons, filterable_fields, metadata_reference
from pipeline.query.limits import InvalidRequest, pointer
from pipeline.query.metadata_fields import MetadataNames
from pipeline.query.partition_list import PartitionList
from pipeline.query.plan import plan
from pipeline.query.ranking import metadata_names, similarity_score
from pipeline.query.request import SearchRequest
from pipeline.records import METADATA_FIELD, VECTOR_FIELD
from pipeline.store import DEFAULT_PARTITION, CollectionInfo, Hit, MilvusServerApi, interval

_MOST_NAMES_ASKED = 16
_SAMPLE = 16
"""Rows looked at to find out which of several names there are."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How to search."""

    fetch: FetchSettings = field(default_factory=FetchSettings)
    max_answer_bytes: int = 8 * 1024 * 1024
    """Most bytes of an answer's results, as JSON."""
    partitions_ttl_s: float = 1.0
    """How long a listing of the Milvus partitions is used again."""
    residency_ttl_s: float = 30.0
    """How long it is taken as known which Milvus partitions are loaded; asking takes a call for each."""
    names_ttl_s: float = 10.0
    """How long a metadata name that no row had counts as missing."""


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
            return self._search(request, vectors, deadline, existing)
        except (NotFound, NotLoaded):
            # Retention may drop a Milvus partition between the listing and the search, an operator release it.
            self._forget()
        except Unavailable:
            self._forget()
            raise
        self._schema = self._describe()
        try:
            left = self._partitions.names()
            found = self._search(request, vectors, deadline, left)
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

    def _describe(self) -> CollectionInfo:
        info = self._api.describe(self._collection)
        if info is None or VECTOR_FIELD not in info.indexes:
            raise Unavailable(f"the collection {self._collection} does not exist yet; an ingest worker creates it")
        self._accept(info)
        return info

    def _search(
        self, request: SearchRequest, vectors: NDArray[np.float32], deadline: float, existing: Sequence[str]
    ) -> SearchResult:
        info = self._schema = self._schema or self._describe()
        catalogue = filterable_fields(info)
        planned = plan(request.time, request.filter, existing, self._partitions.released(), catalogue)
        fetch = Fetch(self._api, info, request, vectors, planned, self._settings.fetch, deadline, self._clock)
        ranked, complete = fetch.best()
        results: list[list[Result]] = [[] for _ in ranked]
        shape = partial(
            _result,
            fields=request.fields,
            declared=frozenset(catalogue.declared),
            metric=info.indexes[VECTOR_FIELD].metric,
            existing=existing,
        )
        size = 0
        try:
            for query, hit in self._learning(fetch.whole(ranked), catalogue):
                result = shape(hit)
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
            searched=Searched(planned.covered, planned.skipped),
            warnings=self._warnings(fetch, catalogue),
        )

    def _learning(self, hits: Iterator[tuple[int, Hit]], catalogue: FilterableFields) -> Iterator[tuple[int, Hit]]:
        for query, hit in hits:
            self._names.learn(metadata_names([hit], catalogue.declared))
            yield query, hit

    def _too_large(self) -> InvalidRequest:
        bound = f"makes an answer of more than {self._settings.max_answer_bytes:,} bytes"
        return InvalidRequest("/limit", f"{bound}; lower it, send fewer texts, or name the metadata wanted in fields")

    def _warnings(self, fetch: Fetch, catalogue: FilterableFields) -> tuple[str, ...]:
        """Name the fields of the filter that no row has: most likely a typing error, which Milvus answers with nothing.

        Not an error: whether a request is right must not depend on which rows have arrived.
        """
        if fetch.request.filter is None:
            return ()
        used = list(dict.fromkeys(leaf.name for leaf in comparisons(fetch.request.filter)))
        asked = [name for name in used if name not in catalogue.declared][:_MOST_NAMES_ASKED]
        try:
            self._look_for(self._names.unknown(asked), fetch, catalogue)
        except (Unavailable, NotFound):
            return ()
        missing = self._names.missing(asked)
        return tuple(self._warning(name, catalogue, fetch.deadline) for name in missing)

    def _look_for(self, names: Sequence[str], fetch: Fetch, catalogue: FilterableFields) -> None:
        """Find out with one call which of the names rows carry.

        Rows with one name say nothing of the others. Those stay unknown until a later request asks for them alone.
        """
        if not names:
            return
        expression = balanced([f"exists {metadata_reference(name)}" for name in names], "or")
        (hits,) = fetch.search(fetch.vectors[:1], _SAMPLE, expression, (METADATA_FIELD,), None)
        if hits:
            self._names.learn(metadata_names(hits, catalogue.declared))
        else:
            self._names.learn_missing(names)

    def _warning(self, name: str, catalogue: FilterableFields, deadline: float) -> str:
        """Say that the name is missing; with the name that was meant, if there is time to look for it."""
        filterable = (known for known, kind in catalogue.declared.items() if kind != "other")
        near = self._names.near(name, filterable) if self._clock() < deadline else None
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
