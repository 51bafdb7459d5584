"""The calls to Milvus of one search: all within its deadline, each for a bounded number of rows."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pipeline.errors import MilvusAway, NotLoaded, Unavailable
from pipeline.query.answer import FetchRound
from pipeline.query.canary_rows import except_canaries, without_canaries
from pipeline.query.fusion import ID
from pipeline.query.plan import SearchPlan
from pipeline.query.ranking import best, rank, results_in
from pipeline.query.recency import recent_first
from pipeline.query.request.request import SearchRequest
from pipeline.query.retrievers import Queries, Retrieved, Retriever, RowSelection
from pipeline.query.returned import NOTHING, Returned
from pipeline.query.tenancy import check_tenant, within_tenant
from pipeline.records import METADATA_FIELD, TENANT_FIELD
from pipeline.store import CollectionInfo, Hit, MilvusApi, literal

T = TypeVar("T")

_POSITION = ("doc_id", "chunk", "event_time", "kafka_topic", "kafka_partition", "kafka_offset")
_MOST_ROWS = 16_384
"""Of one search; Milvus's own bound."""
_CLOCK_SLACK_S = 0.01
"""gRPC may end a call a moment before its deadline."""


_CUT_OFF = (
    "there may be more results: as many rows as one search may were read, and many are of the same documents; narrow "
    "the time range or the filter"
)


class DeadlinePassed(Unavailable):
    """The request's time ran out before there was any result."""


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How many rows to read from Milvus. A whole row has up to 128 KiB: 64 KiB of text, 64 KiB of metadata."""

    overfetch: int = 4
    """Candidates for each result wanted, as documents have several chunks."""
    max_candidates: int = 4_096
    """Most candidates of one query; Milvus's own bound is 16,384."""
    max_request_candidates: int = 16_384
    """Most candidates of all queries of a request together."""
    spare: int = 8
    """Most hits ranked beyond the limit, in place of those that the ledger shows to be of older versions."""
    whole_rows: int = 128
    """Most rows that one call returns whole. Of more candidates what ranks them comes first, then the best whole."""


@dataclass(frozen=True, slots=True)
class FetchTrace:
    """The reads of candidates, and what the last one found."""

    rounds: tuple[FetchRound, ...] = ()
    retrieved: Retrieved | None = None
    eligible: Sequence[Sequence[Hit]] = ()
    """Of each query, the hits that were ranked."""

    def after(self, limit: int, retrieved: Retrieved, eligible: Sequence[Sequence[Hit]]) -> "FetchTrace":
        """The trace with one more read, for `limit` rows of each query."""
        orders = retrieved.legs.values() or [retrieved.hits]
        rows = sum(len(hits) for of_queries in orders for hits in of_queries)
        return FetchTrace((*self.rounds, FetchRound(limit, rows)), retrieved, eligible)


@dataclass(frozen=True, slots=True)
class RankedCandidates:
    """The best hits of each query, best first."""

    hits: list[list[Hit]]
    complete: bool
    """Whether there are as many as there can be; False: Milvus failed before."""
    missing: tuple[str, ...] = ()
    """Names of the legs that Milvus did not answer."""
    trace: FetchTrace = field(default_factory=FetchTrace)
    more: bool = True
    """There may be others behind them."""
    cut_off: bool = False
    """Fewer than wanted, because no more candidates may be read."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an answer says of what is not there."""
        return (*map(_leg_warning, self.missing), *([_CUT_OFF] if self.cut_off else []))


@dataclass(frozen=True, slots=True)
class CandidateSearch:
    """One search of one request: finds candidates, ranks them, and reads the best of them whole."""

    api: MilvusApi
    retriever: Retriever
    collection: CollectionInfo
    request: SearchRequest
    queries: Queries
    plan: SearchPlan
    settings: FetchSettings
    one_version: bool
    """Show only the newest version of a document (mode upsert); in append mode every record stays."""
    checked: bool
    """Rank some to spare, as the ledger may show some to be of older versions."""
    now_ms: int
    """Epoch milliseconds: what ages count from."""
    deadline: float
    """On the clock, seconds."""
    clock: Callable[[], float] = time.monotonic
    tenant: str | None = None
    """Whose rows may be shown; None: those of every tenant."""
    returned: Returned = NOTHING
    """What the pages before have shown; it is left out."""
    consistency: Mapping[str, Any] = field(default_factory=dict)
    """Which writes every read must see; as in `RowSelection`."""

    def ranked(self) -> RankedCandidates:
        """Rank more and more candidates until each query has its results.

        The hits are whole rows, or hold only what ranks them: see `whole`. Raises what the first read raises, and
        ForeignRow; where a later read fails or lacks a leg, the candidates before it remain.
        """
        request, settings, queries = self.request, self.settings, len(self.queries.texts)
        rows_wanted = (request.limit + len(self.returned)) * request.group_size
        most = max(rows_wanted, min(settings.max_candidates, settings.max_request_candidates // queries))
        most = min(most, _MOST_ROWS)
        overfetch = settings.overfetch if request.recency is None else settings.overfetch**2
        wanted = min(rows_wanted * overfetch, most)
        best = request.limit + (settings.spare if self.checked else 0)
        ranked: list[list[Hit]] = []
        trace = FetchTrace()
        while True:
            fields = self._whole_row() if wanted * queries <= settings.whole_rows else (*_POSITION, TENANT_FIELD)
            rows = RowSelection(wanted, self.plan.expression, fields, self.plan.partitions, self.consistency)
            try:
                candidates = self.retrieve(self.queries, rows)
            except Unavailable:
                if not ranked:
                    raise
                return RankedCandidates(ranked, complete=False, trace=trace)
            if ranked and candidates.missing:
                return RankedCandidates(ranked, complete=False, trace=trace)
            found = [without_canaries(hits) for hits in candidates.hits]
            hidden = max(len(hits) - len(shown) for hits, shown in zip(candidates.hits, found, strict=True))
            eligible = [self._eligible(hits) for hits in found]
            ranked = [self._best(hits, best) for hits in eligible]
            if request.explain:  # it keeps all candidates until the answer
                legs = {name: [*map(without_canaries, of_leg)] for name, of_leg in candidates.legs.items()}
                trace = trace.after(wanted, replace(candidates, hits=found, legs=legs), eligible)
            if candidates.missing:
                return RankedCandidates(ranked, complete=False, missing=candidates.missing, trace=trace)
            counts = [results_in(hits, request.group_by) for hits in ranked]
            pairs = zip(counts, eligible, strict=True)
            short = any(count < request.limit and len(hits) + hidden >= wanted for count, hits in pairs)
            if not short or wanted >= most:
                more = any(count > request.limit or count >= best for count in counts)
                more = more or (not short and any(len(hits) + hidden >= wanted for hits in eligible))
                return RankedCandidates(ranked, complete=True, trace=trace, more=more, cut_off=short)
            wanted = min(wanted * settings.overfetch, most)

    def whole(self, ranked: Sequence[Sequence[Hit]]) -> Iterator[tuple[int, Hit]]:
        """(number of the query, hit as a whole row) for every hit; the rows are read as the iteration goes on.

        A row that was deleted or stopped matching since it was ranked is left out.
        """
        hits = [(query, hit) for query, best in enumerate(ranked) for hit in best]
        for start in range(0, len(hits), self.settings.whole_rows):
            part = hits[start : start + self.settings.whole_rows]
            rows = self._rows({hit.id for _, hit in part if "text" not in hit.fields})
            for query, hit in part:
                if "text" in hit.fields:
                    yield query, hit
                elif hit.id in rows:
                    check_tenant(rows[hit.id], self.tenant)
                    yield query, replace(hit, fields=rows[hit.id])

    def retrieve(self, queries: Queries, rows: RowSelection) -> Retrieved:
        """The best rows of each query. Raises DeadlinePassed, or what Milvus's answer means."""
        return self._in_time(lambda left_s: self.retriever.retrieve(self.collection, queries, rows, left_s))

    def _best(self, hits: Sequence[Hit], limit: int) -> list[Hit]:
        """The best hits that no page before has shown."""
        request, group_by = self.request, self.request.group_by
        ranked = rank(
            hits,
            group_by=group_by,
            one_version=self.one_version,
            limit=limit + len(self.returned),
            group_size=request.group_size,
        )
        return best(
            self.returned.others(ranked, group_by=group_by, one_version=self.one_version),
            group_by=group_by,
            limit=limit,
        )

    def _eligible(self, hits: list[Hit]) -> list[Hit]:
        """The hits with the least score or more, best first. Where one is left out, further ones would be, too."""
        request = self.request
        for hit in hits:
            check_tenant(hit.fields, self.tenant)
        if request.min_score is not None:
            hits = [hit for hit in hits if hit.score >= request.min_score]
        if request.recency is not None:
            hits = recent_first(hits, request.recency.recency, self.now_ms)
        return hits

    def sample(self, expression: str, fields: Sequence[str], limit: int) -> list[dict[str, Any]]:
        """At most `limit` rows of the tenant that match, wherever they are; `fields` hold it. Raises as `ranked`."""
        own = within_tenant(self.plan.tenant_term, except_canaries(expression))
        rows = self._in_time(
            lambda left_s: self.api.query(self.collection.name, own, fields, limit=limit, timeout=left_s)
        )
        for row in rows:
            check_tenant(row, self.tenant)
        return rows

    def _rows(self, ids: set[str]) -> dict[str, dict[str, Any]]:
        if not ids:
            return {}
        # Not `ids_expression`, which takes digests only: rows of other programs are found, too, and have any ids.
        among = f"id in [{', '.join(map(literal, sorted(ids)))}]"
        expression = f"({self.plan.expression}) and {among}" if self.plan.expression else among
        rows = self._in_time(
            lambda left_s: self.api.query(
                self.collection.name,
                expression,
                self._whole_row(),
                partitions=self.plan.partitions,
                timeout=left_s,
                **self.consistency,
            )
        )
        return {row["id"]: row for row in rows}

    def _whole_row(self) -> tuple[str, ...]:
        return (*_POSITION, "text", TENANT_FIELD if self.request.fields == [] else METADATA_FIELD)

    def _in_time(self, call: Callable[[float], T]) -> T:
        return in_time(call, self.deadline, self.clock)


def in_time(call: Callable[[float], T], deadline: float, clock: Callable[[], float]) -> T:
    """Call with the seconds that are left. Raises DeadlinePassed where there are none, or they were too few."""
    left_s = deadline - clock()
    if left_s <= 0:
        raise DeadlinePassed("the time of the request ran out; allow more with timeout_ms")
    try:
        return call(left_s)
    except (MilvusAway, NotLoaded):
        raise  # more time is no advice
    except Unavailable as error:
        if clock() >= deadline - _CLOCK_SLACK_S:
            raise DeadlinePassed("Milvus did not answer in the time of the request") from error
        raise


def _leg_warning(name: str) -> str:
    if name == ID:
        return "Milvus did not answer the search for the ids in the query: what only that finds is missing"
    return f"Milvus did not answer the {name} search of this hybrid search: what only that finds is missing"
