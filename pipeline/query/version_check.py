"""The check of a search's best hits against the ledger: rows of older versions are left out, or named in a warning.

While a document is replaced, rows of two versions are visible. Where a filter, a time range or better hits of other
documents hide the newer ones, only the ledger knows of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import structlog

from pipeline.errors import MilvusAway, MilvusStreamError, NotFound
from pipeline.query.ranking import best, document_of, position_of
from pipeline.records import Position
from pipeline.store import (
    KEYS_PER_QUERY,
    VERSION_FIELDS,
    Hit,
    MilvusApi,
    StoredVersion,
    ids_expression,
    ledger_id,
    ledger_name,
    row_version,
)

log = structlog.get_logger(__name__)

Age: TypeAlias = Literal["current", "older", "unknown"]
Ranked: TypeAlias = Sequence[Sequence[Hit]]
"""Hits of each query, best first."""

_LOOKUP_S = 1.0
"""Most time for the ledger; at most half of what the search has left."""
_PAUSE_S = 5.0
"""How long the ledger is not read after it could not be: else every search would wait for it."""
_MOST_NAMED = 3
_UNCHECKED = (
    "results may be of an older version than the one that is stored: the ledger could not be read, so they were not "
    "compared with it"
)


class VersionCheck:
    """Compares hits with the ledger, by one read for each 1,000 documents; used by many threads at a time."""

    def __init__(self, api: MilvusApi, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._resumes_at = clock()
        self._warnings: tuple[str, ...] = ()
        self._missing_logged = False

    def current(
        self,
        collection: str,
        ranked: Ranked,
        *,
        limit: int,
        timeout_s: float,
        group_by: Literal["doc_id"] | None = None,
        consistency: Mapping[str, Any] = MappingProxyType({}),
    ) -> tuple[list[list[Hit]], tuple[str, ...]]:
        """The best `limit` hits, or documents, of each query without rows of older versions, and what to warn of.

        Raises nothing of Milvus: where the ledger cannot be read within `timeout_s`, all hits remain, with a warning.
        A collection without a ledger is not one of milvus-stream's in upsert mode, and needs none.
        """
        stored, warnings = self._stored(collection, ranked, timeout_s, consistency)
        remaining: list[list[Hit]] = []
        uncertain: dict[str, None] = {}
        for hits in ranked:
            ages = {hit.id: version_age(position_of(hit), stored.get(_entry_id(hit))) for hit in hits}
            not_older = [hit for hit in hits if ages[hit.id] != "older"]
            remaining.append(best(not_older, group_by=group_by, limit=limit))
            uncertain.update({hit.fields["doc_id"]: None for hit in remaining[-1] if ages[hit.id] == "unknown"})
        if uncertain:
            warnings = (*warnings, _uncertain_warning(list(uncertain)))
        return remaining, warnings

    def _stored(
        self, collection: str, ranked: Ranked, timeout_s: float, consistency: Mapping[str, Any]
    ) -> tuple[Mapping[str, StoredVersion], tuple[str, ...]]:
        """Stored versions by the id of their ledger row; and warnings, if they could not be read."""
        ids = list(dict.fromkeys(identifier for hits in ranked for hit in hits if (identifier := _entry_id(hit))))
        if not ids:
            return {}, ()
        if self._clock() < self._resumes_at:
            return {}, self._warnings
        wait_s = min(_LOOKUP_S, timeout_s / 2)
        try:
            return self._read(ledger_name(collection), ids, self._clock() + wait_s, consistency), ()
        except NotFound:
            if not self._missing_logged:
                self._missing_logged = True
                log.info("query.no_ledger", collection=collection, what="which version is stored is not known here")
            warnings: tuple[str, ...] = ()
        except MilvusStreamError as error:
            warnings = (_UNCHECKED,)
            if wait_s < _LOOKUP_S or isinstance(error, MilvusAway):
                return {}, warnings  # the hurry of one request says nothing about the ledger, nor does an outage
            log.warning("query.versions_unchecked", why=str(error), seconds=_PAUSE_S)
        self._warnings, self._resumes_at = warnings, self._clock() + _PAUSE_S
        return {}, warnings

    def _read(
        self, ledger: str, ids: Sequence[str], deadline: float, consistency: Mapping[str, Any]
    ) -> dict[str, StoredVersion]:
        stored: dict[str, StoredVersion] = {}
        for start in range(0, len(ids), KEYS_PER_QUERY):
            expression = ids_expression(ids[start : start + KEYS_PER_QUERY])
            left_s = max(deadline - self._clock(), 0.0)
            rows = self._api.query(ledger, expression, VERSION_FIELDS, timeout=left_s, **consistency)
            stored.update({row["id"]: row_version(row) for row in rows})
        return stored


def version_age(position: Position, stored: StoredVersion | None) -> Age:
    """Whether a row that the record at `position` wrote is of the version that the ledger has as stored.

    1. No entry: nothing newer is known.
    2. Pending: rows of both versions may be there, and after a crash those of a third one. Unknown.
    3. The record that wrote the rows of the entry: current.
    4. Of the same log with a lower offset: older. (What a replay or a recreated topic writes with a lower offset is
       missed for the moment in which the read of the ledger does not see its entry.)
    5. Of the same log with a higher offset, without versions: current; the read of the ledger does not see its entry.
    6. Otherwise offsets say nothing. Unknown.
    """
    if stored is None:
        return "current"
    if stored.pending:
        return "unknown"
    if position == stored.written_at:
        return "current"
    of_one_log = position[:2] == stored.written_at[:2]
    if of_one_log and position.offset < stored.written_at.offset:
        return "older"
    return "current" if of_one_log and not stored.versioned else "unknown"


def _entry_id(hit: Hit) -> str:
    """The id of the ledger row of a hit's document; "" for a row of another program, which has none."""
    tenant, doc_id = document_of(hit)
    return ledger_id(tenant, doc_id) if tenant is None or isinstance(tenant, str) else ""


def _uncertain_warning(doc_ids: Sequence[str]) -> str:
    documents = f"{len(doc_ids)} documents" if len(doc_ids) > 1 else "1 document"
    named = ", ".join(map(repr, doc_ids[:_MOST_NAMED]))
    more = f" and {len(doc_ids) - _MOST_NAMED} more" if len(doc_ids) > _MOST_NAMED else ""
    return (
        f"{documents} may be shown in an older version (being changed, or in several Kafka partitions): {named}{more}"
    )
