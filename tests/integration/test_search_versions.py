"""Searches of a document of which rows of two versions are visible, on real servers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.query import Searcher, SearchResult, parse_request
from pipeline.store import MilvusServerApi, entry_row, ledger_name
from pipeline.store.writing.rows import document_rows
from tests.support.documents import DIMENSION, embedded, put
from tests.support.stores import Store, temporary_store, write
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

HIDES_THE_NEWER: tuple[dict[str, Any], ...] = (
    {"filter": {"type": "eq", "key": "lang", "value": "en"}},
    {"time": {"to": "2026-11-23"}},
)


@pytest.fixture
def store(api: MilvusServerApi) -> Iterator[Store]:
    with temporary_store(api, "versions") as made:
        yield made


def shown(found: SearchResult) -> list[tuple[str, int]]:
    return sorted((result.doc_id, result.source.offset) for result in found.results[0])


def test_an_older_version_is_shown_by_no_filter_and_no_time_range(api: MilvusServerApi, store: Store) -> None:
    ledger = ledger_name(store.name)
    vectors = np.ones((1, DIMENSION), np.float32)

    def find(**body: Any) -> SearchResult:
        request = parse_request({"query": "q", "group_by": None, "limit": 20, **body})
        return Searcher(api, store.name).search(request, vectors, 20.0, now_ms=0)

    older = put("a", "one two", 5, metadata={"lang": "en"})
    newer = put("a", "three", 6, day=1, metadata={"lang": "de"})
    other = put("b", "four", 4, metadata={"lang": "en"})
    for record in (other, older, newer, replace(newer, position=newer.position._replace(offset=9))):
        write(store.upsert_writer(), [record])
    assert store.ledger()["a"].position.offset == 9, "its rows are those of record 6"
    eventually(lambda: shown(find()) == [("a", 6), ("b", 4)], what="the newer version alone")

    # Beside it again, as while it was replaced: no server lets a writer be stopped there.
    api.upsert(store.name, "d20261122", document_rows(embedded(older), "d20261122"))
    among = "doc_id == 'a'"
    eventually(lambda: len(api.query(store.name, among, ["id"], limit=9)) == 3, what="rows of both versions")
    for body in HIDES_THE_NEWER:
        found = find(**body)
        assert (shown(found), found.warnings) == ([("b", 4)], ())

    change = store.ledger()["a"]._replace(pending=True)
    api.upsert(ledger, None, [entry_row(change)])
    eventually(lambda: api.query(ledger, "pending == true", ["id"], limit=1) != [], what="the intent")
    for body in HIDES_THE_NEWER:
        found = find(**body)
        assert shown(found) == [("a", 5), ("a", 5), ("b", 4)]
        assert ["may be shown in an older version" in warning for warning in found.warnings] == [True]

    api.drop_collection(ledger)
    found = find(**HIDES_THE_NEWER[0])
    assert (shown(found), found.warnings) == ([("a", 5), ("a", 5), ("b", 4)], ())
