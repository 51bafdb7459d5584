"""The calls to Milvus of one search: all within its deadline, each for a bounded number of rows."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pipeline.errors import Unavailable
from pipeline.query.plan import SearchPlan
from pipeline.query.ranking import rank
from pipeline.query.recency import recent_first
from pipeline.query.request.request import SearchRequest
from pipeline.query.retrievers import Queries, Retrieved, Retriever, RowSelection
from pipeline.query.tenancy import check_tenant, within_tenant
from pipeline.records import METADATA_FIELD, TENANT_FIELD
from pipeline.store import CollectionInfo, Hit, MilvusApi, literal

T = TypeVar("T")

_POSITION = ("doc_id", "event_time", "kafka_topic", "kafka_partition", "kafka_offset")
_CLOCK_SLACK_S = 0.01
"""gRPC may end a call a moment before its deadline."""


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
class RankedCandidates:
    """The best hits of each query, best first."""

    hits: list[list[Hit]]
    complete: bool
    """Whether there are as many as there can be; False: Milvus failed before."""
    missing: tuple[str, ...] = ()
    """Names of the legs that Milvus did not answer."""


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

    def ranked(self) -> RankedCandidates:
        """Rank more and more candidates until each query has its results.

        The hits are whole rows, or hold only what ranks them: see `whole`. Raises what the first read raises, and
        ForeignRow; where a later read fails or lacks a leg, the candidates before it remain.
        """
        request, settings, queries = self.request, self.settings, len(self.queries.texts)
        most = max(request.limit, min(settings.max_candidates, settings.max_request_candidates // queries))
        overfetch = settings.overfetch if request.recency is None else settings.overfetch**2
        wanted = min(request.limit * overfetch, most)
        best = request.limit + (settings.spare if self.checked else 0)
        ranked: list[list[Hit]] = []
        while True:
            fields = self._whole_row() if wanted * queries <= settings.whole_rows else (*_POSITION, TENANT_FIELD)
            rows = RowSelection(wanted, self.plan.expression, fields, self.plan.partitions)
            try:
                candidates = self.retrieve(self.queries, rows)
            except Unavailable:
                if not ranked:
                    raise
                return RankedCandidates(ranked, complete=False)
            if ranked and candidates.missing:
                return RankedCandidates(ranked, complete=False)
            eligible = [self._eligible(hits) for hits in candidates.hits]
            ranked = [
                rank(hits, group_by=request.group_by, one_version=self.one_version, limit=best) for hits in eligible
            ]
            if candidates.missing:
                return RankedCandidates(ranked, complete=False, missing=candidates.missing)
            pairs = zip(ranked, eligible, strict=True)
            short = any(len(found) < request.limit and len(hits) >= wanted for found, hits in pairs)
            if not short or wanted >= most:
                return RankedCandidates(ranked, complete=True)
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
        """At most `limit` rows of the tenant that match, wherever they are. Raises as `retrieve`."""
        own = within_tenant(self.plan.tenant_term, expression)
        return self._in_time(
            lambda left_s: self.api.query(self.collection.name, own, fields, limit=limit, timeout=left_s)
        )

    def _rows(self, ids: set[str]) -> dict[str, dict[str, Any]]:
        if not ids:
            return {}
        # Not `ids_expression`, which takes digests only: rows of other programs are found, too, and have any ids.
        among = f"id in [{', '.join(map(literal, sorted(ids)))}]"
        expression = f"{self.plan.expression} and {among}" if self.plan.expression else among
        rows = self._in_time(
            lambda left_s: self.api.query(
                self.collection.name, expression, self._whole_row(), partitions=self.plan.partitions, timeout=left_s
            )
        )
        return {row["id"]: row for row in rows}

    def _whole_row(self) -> tuple[str, ...]:
        return (*_POSITION, "chunk", "text", TENANT_FIELD if self.request.fields == [] else METADATA_FIELD)

    def _in_time(self, call: Callable[[float], T]) -> T:
        left_s = self.deadline - self.clock()
        if left_s <= 0:
            raise DeadlinePassed("the time of the request ran out; allow more with timeout_ms")
        try:
            return call(left_s)
        except Unavailable as error:
            if self.clock() >= self.deadline - _CLOCK_SLACK_S:
                raise DeadlinePassed("Milvus did not answer in the time of the request") from error
            raise
