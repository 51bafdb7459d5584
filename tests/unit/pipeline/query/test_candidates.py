"""Candidates of a search: enough to fill the limit, never too many, and outages between two calls."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest

from pipeline.errors import Unavailable
from pipeline.query import (
    FetchSettings,
    InvalidRequest,
    Searcher,
    SearchSettings,
)
from pipeline.store.milvus.api import Hit, VectorSearch
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, DOCUMENTS, EAST, Library, doc_ids, find, searches


def test_more_is_fetched_until_the_limit_is_filled(searcher: Searcher, library: Library, milvus: FakeMilvus) -> None:
    for chunk in range(40):
        library.put("long", chunk / 10, chunk=chunk)
    library.put("b", 50.0)
    library.put("c", 60.0)
    assert doc_ids(find(searcher, limit=2)) == ["long", "b"]
    assert searches(milvus) == 3  # 8, 32 and 128 rows


def test_the_candidates_are_bounded(make_searcher: Callable[..., Searcher], library: Library) -> None:
    for chunk in range(40):
        library.put("long", chunk / 10, chunk=chunk)
    library.put("b", 50.0)
    found = find(make_searcher(max_candidates=16), limit=2)
    assert doc_ids(found) == ["long"]
    assert not found.partial


class CountedMilvus(FakeMilvus):
    """`reads` gains (operation, rows returned, whether with texts) of each read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, int, bool]] = []
        self.create_collection(DOCUMENTS)

    def search(self, collection: str, search: VectorSearch) -> list[list[Hit]]:
        found = super().search(collection, search)
        self.reads.append(("search", sum(map(len, found)), "text" in search.fields))
        return found

    def query(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        found = super().query(*arguments, **options)
        self.reads.append(("query", len(found), "text" in arguments[2]))
        return found


def test_no_call_returns_more_whole_rows_than_allowed() -> None:
    milvus = CountedMilvus()
    library = Library(milvus)
    for number in range(100):
        library.put(f"doc {number:03}", number / 2, title=f"T {number}", lang="en" if number % 2 else "de")
    settings = SearchSettings(FetchSettings(whole_rows=16))
    searcher = Searcher(milvus, COLLECTION, settings)
    found = find(searcher, limit=40, filter={"type": "eq", "key": "lang", "value": "en"})
    assert doc_ids(found) == [f"doc {number:03}" for number in range(1, 81, 2)]
    assert [result.metadata["title"] for result in found.results[0]] == [f"T {number}" for number in range(1, 81, 2)]
    assert found.results[0][3].score == pytest.approx(np.cos(np.radians(3.5)))
    assert milvus.reads == [("search", 50, False), ("query", 16, True), ("query", 16, True), ("query", 8, True)]
    milvus.reads.clear()
    find(searcher, limit=4)
    assert milvus.reads == [("search", 16, True)]


def test_candidates_of_all_texts_together_are_bounded(make_searcher: Callable[..., Searcher], library: Library) -> None:
    for chunk in range(40):
        library.put("long", chunk / 10, chunk=chunk)
    library.put("b", 50.0)
    east_twice = np.repeat(EAST, 2, axis=0)
    found = find(make_searcher(max_request_candidates=32), east_twice, query=["a", "b"], limit=2)
    assert [doc_ids(found, query) for query in (0, 1)] == [["long"], ["long"]]
    assert doc_ids(find(make_searcher(max_request_candidates=48), limit=2)) == ["long", "b"]


def test_an_answer_is_bounded_in_bytes_before_all_of_it_is_fetched() -> None:
    milvus = CountedMilvus()
    library = Library(milvus)
    for number in range(60):
        library.put(f"doc {number}", number / 2, body="x" * 1000)
    settings = SearchSettings(FetchSettings(whole_rows=10), max_answer_bytes=20_000)
    searcher = Searcher(milvus, COLLECTION, settings)
    with pytest.raises(InvalidRequest, match=r"^/limit: .* more than 20,000 bytes; lower it"):
        find(searcher, limit=60)
    assert milvus.reads == [("search", 60, False), ("query", 10, True), ("query", 10, True)]
    assert len(find(searcher, limit=10).results[0]) == 10
    assert len(find(searcher, limit=50, fields=[]).results[0]) == 50


def test_a_row_that_changes_before_it_is_fetched_whole_is_left_out(
    make_searcher: Callable[..., Searcher], library: Library, milvus: FakeMilvus
) -> None:
    for number in range(4):
        library.put(f"doc {number}", number, lang="en")

    def between(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        if operation == "search" and when == "after":
            rows = milvus.stored(COLLECTION)["d20261122"]
            milvus.hook = None
            milvus.delete(COLLECTION, "d20261122", [f"{2:064x}"])
            milvus.upsert(COLLECTION, "d20261122", [{**rows[f"{3:064x}"], "lang": "de"}])

    milvus.hook = between
    found = find(make_searcher(whole_rows=2), filter={"type": "eq", "key": "lang", "value": "en"})
    assert doc_ids(found) == ["doc 0", "doc 3"]
    assert not found.partial


def test_an_outage_before_all_rows_are_whole_gives_a_partial_answer(
    make_searcher: Callable[..., Searcher], library: Library, milvus: FakeMilvus
) -> None:
    for number in range(6):
        library.put(f"doc {number}", number)
    calls = 0

    def second_query_fails(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        nonlocal calls
        calls += (operation, collection, when) == ("query", COLLECTION, "before")
        if calls == 2:
            raise Unavailable("gone")

    milvus.hook = second_query_fails
    found = find(make_searcher(whole_rows=2), limit=6)
    assert found.partial
    assert doc_ids(found) == ["doc 0", "doc 1"]


def test_an_outage_between_two_fetches_gives_a_partial_answer(
    searcher: Searcher, library: Library, milvus: FakeMilvus
) -> None:
    for chunk in range(40):
        library.put("long", chunk / 10, chunk=chunk)
    library.put("b", 50.0)
    calls = 0

    def second_search_fails(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        nonlocal calls
        calls += operation == "search" and when == "before"
        if calls == 2:
            raise Unavailable("gone")

    milvus.hook = second_search_fails
    found = find(searcher, limit=2)
    assert found.partial
    assert doc_ids(found) == ["long"]
