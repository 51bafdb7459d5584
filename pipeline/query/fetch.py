"""The calls to Milvus of one search: all within its deadline, each for a bounded number of rows."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Unavailable
from pipeline.query.plan import SearchPlan
from pipeline.query.ranking import rank
from pipeline.query.request import SearchRequest
from pipeline.records import METADATA_FIELD, TENANT_FIELD, VECTOR_FIELD
from pipeline.store import CollectionInfo, Hit, MilvusServerApi, VectorSearch, literal, search_params

T = TypeVar("T")

_POSITION = ("doc_id", "event_time", "kafka_topic", "kafka_partition", "kafka_offset")
_CLOCK_SLACK_S = 0.01
"""gRPC may end a call a moment before its deadline."""


class DeadlinePassed(Unavailable):
    """The request's time ran out before there was any result."""


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """How many rows to ask Milvus for. A whole row has up to 128 KiB: 64 KiB of text, 64 KiB of metadata."""

    one_version: bool = True
    """Show only the newest version of a document (mode upsert); in append mode every record stays."""
    overfetch: int = 4
    """Rows looked at for each result wanted, as documents have several chunks."""
    max_candidates: int = 4_096
    """Most rows looked at for one query; Milvus's own bound is 16,384."""
    max_request_candidates: int = 16_384
    """Most rows looked at for all queries of a request together."""
    whole_rows: int = 128
    """Most rows that one call returns whole. Of more candidates what ranks them comes first, then the best whole."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """One search of one request."""

    api: MilvusServerApi
    info: CollectionInfo
    request: SearchRequest
    vectors: NDArray[np.float32]
    planned: SearchPlan
    settings: FetchSettings
    deadline: float
    """On the clock, seconds."""
    clock: Callable[[], float] = time.monotonic

    def best(self) -> tuple[list[list[Hit]], bool]:
        """Rank more and more candidates until each query has its results; False: Milvus failed before that.

        The hits are whole rows, or what ranks them: see `whole`.
        """
        request, settings = self.request, self.settings
        share = settings.max_request_candidates // len(self.vectors)
        most = max(request.limit, min(settings.max_candidates, share))
        wanted = min(request.limit * settings.overfetch, most)
        ranked: list[list[Hit]] = []
        while True:
            whole = wanted * len(self.vectors) <= settings.whole_rows
            fields = self._whole_row() if whole else (*_POSITION, TENANT_FIELD)
            try:
                found = self.search(self.vectors, wanted, self.planned.expression, fields, self.planned.partitions)
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

    def whole(self, ranked: Sequence[Sequence[Hit]]) -> Iterator[tuple[int, Hit]]:
        """(number of the query, hit as a whole row) for every hit; the rows are fetched as the iteration goes on.

        A row that was deleted or no longer matches meanwhile is left out.
        """
        hits = [(query, hit) for query, found in enumerate(ranked) for hit in found]
        for start in range(0, len(hits), self.settings.whole_rows):
            part = hits[start : start + self.settings.whole_rows]
            rows = self._rows({hit.id for _, hit in part if "text" not in hit.fields})
            for query, hit in part:
                if "text" in hit.fields:
                    yield query, hit
                elif hit.id in rows:
                    yield query, Hit(hit.id, hit.score, rows[hit.id])

    def search(
        self,
        vectors: NDArray[np.float32],
        limit: int,
        expression: str,
        fields: Sequence[str],
        partitions: Sequence[str] | None,
    ) -> list[list[Hit]]:
        """The nearest rows of each vector. Raises DeadlinePassed, or what Milvus's answer means."""
        index = self.info.indexes[VECTOR_FIELD]
        return self._in_time(
            lambda left: self.api.search(
                self.info.name,
                VectorSearch(
                    vectors,
                    limit,
                    expression=expression,
                    fields=fields,
                    partitions=partitions,
                    params=search_params(index, limit),
                    timeout_s=left,
                ),
            )
        )

    def _rows(self, ids: set[str]) -> dict[str, dict[str, Any]]:
        if not ids:
            return {}
        among = f"id in [{', '.join(map(literal, sorted(ids)))}]"
        expression = f"{self.planned.expression} and {among}" if self.planned.expression else among
        found = self._in_time(
            lambda left: self.api.query(
                self.info.name, expression, self._whole_row(), partitions=self.planned.partitions, timeout=left
            )
        )
        return {row["id"]: row for row in found}

    def _whole_row(self) -> tuple[str, ...]:
        # The dynamic field as a whole: Milvus 2.3.5 cannot name keys like `a-b`.
        return (*_POSITION, "chunk", "text", TENANT_FIELD if self.request.fields == () else METADATA_FIELD)

    def _in_time(self, call: Callable[[float], T]) -> T:
        left = self.deadline - self.clock()
        if left <= 0:
            raise DeadlinePassed("the time of the request ran out; allow more with timeout_ms")
        try:
            return call(left)
        except Unavailable as error:
            if self.clock() >= self.deadline - _CLOCK_SLACK_S:
                raise DeadlinePassed("Milvus did not answer in the time of the request") from error
            raise
