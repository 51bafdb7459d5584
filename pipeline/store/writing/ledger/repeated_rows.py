"""Ledger rows that Milvus has more than once, because it has lost the delete of an upsert.

Such a server answers any of the rows, also to a strong read: possibly an older one, whose footprint does not cover the
rows of the newer. Only a count shows it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.order import compare
from pipeline.store.milvus.api import MilvusApi, as_of
from pipeline.store.milvus.expressions import ids_expression, literal
from pipeline.store.writing.ledger.ledger_rows import ENTRY_FIELDS, row_entry
from pipeline.store.writing.protocol.decisions import NOWHERE, Entry

_MOST_COPIES = 8


def repeated_entries(
    api: MilvusApi, ledger: str, ids: Sequence[str], distinct: int, consistency: Mapping[str, Any]
) -> dict[str, Entry]:
    """Entries of the ids that have several rows: the newest, pending, with a footprint that covers all of them.

    So the next record of the document writes all of it again, which replaces every row. `distinct`: rows that a query
    with this consistency answers for the ids.
    """
    if _count(api, ledger, ids, consistency) <= distinct:
        return {}
    now = {**consistency, **as_of(api.instant())}  # some dozens of reads
    entries: dict[str, Entry] = {}
    waiting = [list(ids)]
    while waiting:
        some = waiting.pop()
        rows = api.query(ledger, ids_expression(some), ["id"], **now)
        if _count(api, ledger, some, now) <= len(rows):
            continue  # a row was written between the first query and its count
        if len(some) == 1:
            entries[some[0]] = _covering(_copies(api, ledger, some[0], now))
        else:
            middle = len(some) // 2
            waiting += [some[:middle], some[middle:]]
    return entries


def _count(api: MilvusApi, ledger: str, ids: Sequence[str], consistency: Mapping[str, Any]) -> int:
    return int(api.query(ledger, ids_expression(list(ids)), ["count(*)"], **consistency)[0]["count(*)"])


def _copies(api: MilvusApi, ledger: str, identifier: str, now: Mapping[str, Any]) -> list[Entry]:
    """The rows of one id. A filter applies before Milvus leaves copies out, so each is excluded once it is known."""
    expression, copies = ids_expression([identifier]), []
    for _ in range(_MOST_COPIES):
        rows = api.query(ledger, expression, ENTRY_FIELDS, **now)
        if not rows:
            break
        row = rows[0]
        copies.append(row_entry(row))
        # Two intents of one offset differ by their footprint only.
        pending, footprint = str(row["pending"]).lower(), literal(row["footprint"])
        known = f"kafka_offset == {row['kafka_offset']} and pending == {pending} and footprint == {footprint}"
        expression += f" and not ({known})"
    return copies


def _covering(copies: Sequence[Entry]) -> Entry:
    newest = copies[0]
    footprint: dict[str, int] = {}
    for entry in copies:
        if newest.position == NOWHERE or (entry.position != NOWHERE and compare(newest.rank, entry.rank).order > 0):
            newest = entry
        for partition, chunks in entry.footprint.items():
            footprint[partition] = max(chunks, footprint.get(partition, 0))
    return newest._replace(footprint=footprint, pending=True)
