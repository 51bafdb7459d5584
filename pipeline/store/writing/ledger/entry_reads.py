"""Reads of ledger entries by the keys of documents, and of the keys themselves where the tenant is not known."""

from collections.abc import Sequence
from typing import Any

from pipeline.store.milvus.api import MilvusApi
from pipeline.store.milvus.expressions import ids_expression, literal
from pipeline.store.writing.ledger.ledger_rows import ENTRY_FIELDS, row_entry
from pipeline.store.writing.ledger.repeated_rows import repeated_entries
from pipeline.store.writing.protocol.decisions import Entry, Key
from pipeline.store.writing.rows import ledger_id

KEYS_PER_QUERY = 1000


def read_entries(api: MilvusApi, ledger: str, keys: Sequence[Key], **options: Any) -> dict[Key, Entry]:
    """The stored entries; keys without one are left out. `options`: consistency and timeout of the queries.

    Of rows that the server has more than once the entry is pending, see `repeated_entries`.
    """
    entries: dict[Key, Entry] = {}
    for start in range(0, len(keys), KEYS_PER_QUERY):
        by_id = {ledger_id(*key): key for key in keys[start : start + KEYS_PER_QUERY]}
        rows = api.query(ledger, ids_expression(list(by_id)), ENTRY_FIELDS, **options)
        entries.update({by_id[row["id"]]: row_entry(row) for row in rows})
        if rows and api.server.capabilities.answers_older_rows:
            repeated = repeated_entries(api, ledger, list(by_id), len(rows), options)
            entries.update({by_id[identifier]: entry for identifier, entry in repeated.items()})
    return entries


def keys_of(api: MilvusApi, ledger: str, doc_id: str, *, limit: int, **options: Any) -> list[Key]:
    """At most `limit` keys with this doc_id, one for each tenant, deleted documents included; a scan of the ledger."""
    rows = api.query(ledger, f"doc_id == {literal(doc_id)}", ENTRY_FIELDS, limit=limit, **options)
    return [(entry.tenant, entry.doc_id) for entry in map(row_entry, rows)]
