"""One search over Milvus: plan, find candidates, shape the results, and list what was covered."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MilvusStreamError, NotFound, NotLoaded, Unavailable
from pipeline.query.answer import Searched, SearchResult, Skipped
from pipeline.query.candidates import CandidateSearch, DeadlinePassed, FetchSettings
from pipeline.query.description import CollectionDescription, describe_collection
from pipeline.query.explain import Phases, explained
from pipeline.query.facets import check_facets, read_facets
from pipeline.query.filter_warnings import filter_warnings
from pipeline.query.listing import DocumentListing
from pipeline.query.method import SearchMethod, chosen_method
from pipeline.query.partition_index import PartitionIndex
from pipeline.query.partition_list import PartitionList
from pipeline.query.plan import plan_search
from pipeline.query.ranking import results_in
from pipeline.query.relevance import RelevanceScale
from pipeline.query.request.filter_expressions import FilterableFields, filterable_fields
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.request.request import SearchRequest
from pipeline.query.rerank.step import Reranked, Reranking, rerank_step
from pipeline.query.result_rows import read_results
from pipeline.query.retrievers import Queries
from pipeline.query.returned import NOTHING, Returned
from pipeline.query.row_count import count_rows
from pipeline.query.tenancy import NamesByTenant
from pipeline.query.version_check import VersionCheck
from pipeline.records import VECTOR_FIELD
from pipeline.store import CollectionInfo, Hit, MilvusServerApi, as_of


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
    params: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of searches by vectors, where the collection's type of index has them."""


@dataclass(frozen=True, slots=True)
class _Schema:
    """What was read of the collection."""

    info: CollectionInfo
    one_version: bool


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One call of `Searcher.search`; `deadline` is on the clock."""

    request: SearchRequest
    queries: Queries
    deadline: float
    now_ms: int
    tenant: str | None
    returned: Returned
    since: int | None
    besides: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a collection at the moment."""

    info: CollectionInfo
    one_version: bool
    """Whether a document has one current version (mode upsert)."""
    partitions: PartitionIndex
    released: frozenset[str]
    """Milvus partitions that are not loaded."""


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
        reranking: Reranking | None = None,
        scale: RelevanceScale | None = None,
    ) -> None:
        """`accept` raises Mismatch for a collection that must not be searched with this query's vectors.

        `one_version`: whether a document of the collection has one current version (mode upsert). `reranking`: None
        where there is no reranker. `scale`: of the model; None where it is not known.
        """
        self._accept = accept
        self._reranking = reranking
        self._scale = scale
        self._one_version = one_version
        self._api = api
        self._collection = collection
        self._settings = settings or SearchSettings()
        self._clock = clock
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
        returned: Returned = NOTHING,
        since: int | None = None,
        besides: str = "",
    ) -> SearchResult:
        """Find the best rows for each query; blocks up to `timeout_s`.

        `vectors` has shape (queries, dimension), and is None where the request's mode is keyword. `now_ms` (epoch
        milliseconds) is what a time range counts back from. `tenant`: whose documents are searched; None: all.
        `returned`: what the pages before have shown. `since`: a strong search need only see what was acknowledged
        before this moment of Milvus's clock; None: before now. `besides`: an expression that rows must match, too, true
        of all rows of a document or of none. Raises InvalidRequest (the filter or the mode does not fit the collection,
        or a text has no direction), DeadlinePassed, Unavailable (also while there is no collection), ForeignRow.
        """
        deadline = self._clock() + timeout_s
        if vectors is not None:
            _check_vectors(vectors, request.many)
        queries = Queries(request.queries, vectors)
        run = partial(self._search, _Wanted(request, queries, deadline, now_ms, tenant, returned, since, besides))
        existing = PartitionIndex()
        try:
            existing = self._partitions.listing(fresh=request.strong)
            return run(existing)
        except (NotFound, NotLoaded) as error:
            # Retention may drop a Milvus partition between the listing and the search, an operator release it.
            first: MilvusStreamError = error
            self.forget()
        except Unavailable:
            self.forget()
            raise
        self._schema = self._describe()
        try:
            remaining = self._partitions.listing()
            result = run(remaining)
        except NotFound as error:
            raise Unavailable(f"Milvus partitions of {self._collection} change too fast: {error}") from error
        except DeadlinePassed:
            if isinstance(first, NotLoaded):  # as after a restart of Milvus: more time for the request is no advice
                raise first from None
            raise
        dropped = tuple(Skipped(name, "dropped") for name in existing.names if name not in remaining.names)
        searched = Searched(result.searched.partitions, (*result.searched.skipped, *dropped))
        explanation = result.explanation and replace(result.explanation, partitions=searched)
        return replace(result, searched=searched, explanation=explanation)

    @property
    def collection(self) -> str:
        """The name of the collection."""
        return self._collection

    def describe(self, *, tenant: str | None = None) -> CollectionDescription:
        """Describe the collection to a client; blocks for some seconds at most. Raises Unavailable, Mismatch."""
        return describe_collection(self._api, self._describe().info, tenant=tenant)

    def listing(self) -> DocumentListing:
        """The documents without a search. Raises Unavailable, Mismatch."""
        return DocumentListing(self._api, self._describe().info)

    def check(self) -> None:
        """Read the collection's schema. Raises Unavailable where Milvus does not answer or has none such, Mismatch."""
        self._schema = self._describe()

    def metadata_names(self, most: int, *, tenant: str | None = None) -> list[str]:
        """Up to `most` metadata names that results of searches for this tenant carried so far; calls nothing."""
        return self._names.of(tenant).known(most)

    @property
    def api(self) -> MilvusServerApi:
        """The server."""
        return self._api

    @property
    def settings(self) -> SearchSettings:
        """How much a search may read."""
        return self._settings

    def snapshot(self) -> Snapshot:
        """What searches know of the collection. Raises Unavailable, Mismatch; NotFound where it was dropped since."""
        schema = self._schema = self._schema or self._describe()
        return Snapshot(schema.info, schema.one_version, self._partitions.listing(), self._partitions.released())

    def forget(self) -> None:
        """Read the collection again at the next use: what was known of it is wrong."""
        self._schema = None
        self._partitions.forget()

    def _describe(self) -> "_Schema":
        info = self._api.describe(self._collection)
        if info is None or VECTOR_FIELD not in info.indexes:
            raise Unavailable(f"the collection {self._collection} does not exist yet; an ingest worker creates it")
        self._accept(info)
        return _Schema(info, self._one_version(info))

    def _search(self, wanted: _Wanted, existing: PartitionIndex) -> SearchResult:
        phases = Phases(self._clock)
        request = wanted.request
        if (step := rerank_step(self._reranking, request)) is not None:
            wanted = replace(wanted, request=step.candidates)
        method, search, fields = self._planned(wanted, existing)
        phases.end("plan")
        candidates = search.ranked()
        phases.end("candidates")
        ranked, of_versions = self._current(search, candidates.hits, phases)
        warnings = (*candidates.warnings, *of_versions)
        reranked = Reranked([[*hits] for hits in ranked])
        if step is not None:
            reranked = step.reranked(search, ranked)
            warnings += reranked.warnings
            phases.end("rerank")
        names = self._names.of(wanted.tenant)
        most = self._settings.max_answer_bytes
        shown = read_results(search, reranked.hits, fields, existing, names, max_bytes=most, scale=self._scale)
        phases.end("rows")
        warnings = (*filter_warnings(names, search, fields, self._clock), *warnings)
        phases.end("warnings")
        facets, of_facets = read_facets(search, fields)
        if request.facets:
            phases.end("facets")
        total, of_count = self._total(search, phases)
        searched = Searched(search.plan.covered, search.plan.skipped)
        cut = any(results_in(hits, request.group_by) > request.limit for hits in ranked)
        explanation = None
        if request.explain:
            explanation = explained(
                method,
                candidates,
                checked=ranked,
                reranked=reranked.changed,
                results=shown.results,
                searched=searched,
                phases_ms=phases.ms,
            )
        return SearchResult(
            results=shown.results,
            partial=not (candidates.complete and shown.whole),
            searched=searched,
            warnings=(*warnings, *of_facets, *of_count),
            mode=method.mode,
            total=total,
            explanation=explanation,
            facets=facets,
            more=candidates.more or not shown.whole or cut,
            returned=shown.digests,
            rerank_s=reranked.seconds,
            rerank_failure=reranked.failure,
        )

    def _planned(
        self, wanted: _Wanted, existing: PartitionIndex
    ) -> tuple[SearchMethod, CandidateSearch, FilterableFields]:
        """How the rows are found, the search for them, and the fields of the collection. Raises InvalidRequest."""
        request = wanted.request
        schema = self._schema = self._schema or self._describe()
        fields = filterable_fields(schema.info, self._api.server.capabilities)
        check_facets(request.facets or (), fields)
        times, released = request.time_range(wanted.now_ms), self._partitions.released()
        plan = plan_search(times, request.filter, existing, released, fields, tenant=wanted.tenant)
        if besides := wanted.besides:
            plan = replace(plan, expression=f"({plan.expression}) and ({besides})" if plan.expression else besides)
        method = chosen_method(
            request, schema.info, self._api, one_version=schema.one_version, configured=self._settings.params
        )
        search = CandidateSearch(
            self._api,
            method.retriever(self._api, self._clock),
            schema.info,
            request,
            wanted.queries,
            plan,
            self._settings.fetch,
            schema.one_version,
            method.hides_versions,
            wanted.now_ms,
            wanted.deadline,
            self._clock,
            wanted.tenant,
            wanted.returned,
            # All reads of the request as of one moment: only the first one waits until the server has passed it.
            as_of(wanted.since or self._api.instant()) if request.strong else {},
        )
        return method, search, fields

    def _current(
        self, search: CandidateSearch, ranked: list[list[Hit]], phases: Phases
    ) -> tuple[list[list[Hit]], tuple[str, ...]]:
        """The hits without rows of older versions, and what to warn of."""
        if not search.checked:
            return ranked, ()
        current = self._versions.current(
            search.collection.name,
            ranked,
            limit=search.request.limit,
            timeout_s=search.deadline - self._clock(),
            group_by=search.request.group_by,
            consistency=search.consistency,
        )
        phases.end("versions")
        return current

    def _total(self, search: CandidateSearch, phases: Phases) -> tuple[int | None, tuple[str, ...]]:
        if not search.request.count:
            return None, ()
        left_s = search.deadline - self._clock()
        counted = count_rows(self._api, search.collection.name, search.plan, left_s, search.consistency)
        phases.end("count")
        return counted


def _check_vectors(vectors: NDArray[np.float32], many: bool) -> None:
    """Milvus answers a NaN query with nothing and scores a zero vector 0 with every row; neither is an answer."""
    usable = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    for index in np.flatnonzero(~usable):
        at = f"/query/{index}" if many else "/query"
        raise InvalidRequest(at, "has no direction in the model's space; write it in other words")
