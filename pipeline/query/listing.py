"""Documents of a collection without a search: how many there are, the newest time, and their metadata."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.query.canary_rows import except_canaries
from pipeline.query.candidates import DeadlinePassed
from pipeline.query.request.filter_expressions import compile_filter, filterable_fields
from pipeline.query.request.filters import Filter
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.tenancy import check_tenant, tenant_term, within_tenant
from pipeline.records import METADATA_FIELD, NOT_METADATA, TENANT_FIELD
from pipeline.store import MAX_EVENT_TIME_MS, MIN_EVENT_TIME_MS, CollectionInfo, MilvusServerApi, interval

MAX_DOCUMENTS = 1_000
MAX_ANSWER_CHARS = 8 * 1024 * 1024
TIMEOUT_S = 8.0
"""For all calls of one read together."""
_ONE_A_DOCUMENT = "chunk == 0"
_POSITION = ("doc_id", "event_time", "kafka_topic", "kafka_partition", "kafka_offset")


@dataclass(frozen=True, slots=True)
class ListedDocument:
    """One document."""

    doc_id: str
    event_time_ms: int
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DocumentStatistics:
    """The documents of a collection. One that is being moved to another time partition may count twice."""

    documents: int
    newest_ms: int | None
    """The newest event time in epoch milliseconds, to the second; None: there is no document."""


class DocumentListing:
    """Reads one collection within some seconds; made for one read."""

    def __init__(self, api: MilvusServerApi, info: CollectionInfo, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._info = info
        self._clock = clock
        self._deadline = clock() + TIMEOUT_S

    def statistics(self, *, tenant: str | None = None) -> DocumentStatistics:
        """Count the documents. Raises Unavailable, NotFound, DeadlinePassed."""
        expression = self._expression(None, tenant)
        documents = self._count(expression)
        return DocumentStatistics(documents, self._newest(expression) if documents else None)

    def documents(self, rows: Filter | None, *, tenant: str | None = None) -> list[ListedDocument]:
        """The documents that match, in the order of their ids.

        Raises InvalidRequest at /filter for more than 1,000, or where it does not fit; and as `statistics`.
        """
        expression = self._expression(rows, tenant)
        if (count := self._count(expression)) > MAX_DOCUMENTS:
            raise InvalidRequest("/filter", f"matches {count:,} documents; at most {MAX_DOCUMENTS:,} are listed")
        fields = (*_POSITION, METADATA_FIELD)
        found = self._query(expression, fields, MAX_DOCUMENTS)
        newest: dict[tuple[Any, str], dict[str, Any]] = {}
        for row in sorted(found, key=lambda row: (row["event_time"], row["kafka_offset"])):
            check_tenant(row, tenant)
            newest[row.get(TENANT_FIELD), row["doc_id"]] = row
        hidden = {*NOT_METADATA, *(field.name for field in self._info.fields)}
        listed = [
            ListedDocument(
                row["doc_id"],
                row["event_time"],
                {name: value for name, value in row.items() if name not in hidden},
            )
            for row in newest.values()
        ]
        if sum(len(str(one.metadata)) for one in listed) > MAX_ANSWER_CHARS:
            raise InvalidRequest("/filter", "matches documents whose metadata is too large for one answer")
        return sorted(listed, key=lambda one: one.doc_id)

    def _expression(self, rows: Filter | None, tenant: str | None) -> str:
        fields = filterable_fields(self._info, self._api.server.capabilities)
        matching = "" if rows is None else f" and ({compile_filter(rows, fields)})"
        return within_tenant(tenant_term(tenant, fields), except_canaries(_ONE_A_DOCUMENT + matching))

    def _count(self, expression: str) -> int:
        return int(self._query(expression, ["count(*)"])[0]["count(*)"])

    def _newest(self, expression: str) -> int:
        """The newest event time, found by halving the range that may hold it: Milvus does not sort."""
        ends = [span[1] for name in self._api.partitions(self._info.name) if (span := interval(name)) is not None]
        low, high = MIN_EVENT_TIME_MS // 1_000, min(max(ends, default=MAX_EVENT_TIME_MS), MAX_EVENT_TIME_MS) // 1_000
        if self._any(f"{expression} and event_time >= {high * 1_000}"):
            high = MAX_EVENT_TIME_MS // 1_000
        while low < high:
            middle = (low + high + 1) // 2
            if self._any(f"{expression} and event_time >= {middle * 1_000}"):
                low = middle
            else:
                high = middle - 1
        return low * 1_000

    def _any(self, expression: str) -> bool:
        return bool(self._query(expression, ["doc_id"], 1))

    def _query(self, expression: str, fields: Sequence[str], limit: int | None = None) -> list[dict[str, Any]]:
        left_s = self._deadline - self._clock()
        if left_s <= 0:
            raise DeadlinePassed("Milvus did not answer in time; try again")
        return self._api.query(self._info.name, expression, fields, limit=limit, timeout=left_s)
