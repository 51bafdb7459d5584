"""Canaries in a collection: no search shows one, and the limit is filled without them."""

from collections.abc import Callable

import pytest

from pipeline.query import EXCEPT_CANARIES, ONLY_CANARIES, Searcher, is_canary
from pipeline.records import CANARY_PREFIX
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, Library, doc_ids, eq, find

NEAR = ("milvus-stream:canary", "milvus-stream:canarz:1", "milvus-stream:canary;1", "a milvus-stream:canary:1")


@pytest.mark.parametrize("group_by", ["doc_id", None])
@pytest.mark.parametrize("one_version", [True, False])
def test_no_search_shows_a_canary(
    make_searcher: Callable[..., Searcher], library: Library, group_by: str | None, one_version: bool
) -> None:
    for number in range(3):
        library.put(f"{CANARY_PREFIX}{number}", 0.0, lang="en")
    for angle, name in enumerate(("a", *NEAR), 1):
        library.put(name, angle, lang="en")
    searcher = make_searcher(one_version=one_version)
    assert doc_ids(find(searcher, group_by=group_by)) == ["a", *NEAR]
    assert doc_ids(find(searcher, group_by=group_by, filter=eq("lang", "en"), limit=2)) == ["a", NEAR[0]]
    assert doc_ids(find(searcher, group_by=group_by, filter=eq("doc_id", f"{CANARY_PREFIX}1"))) == []


def test_the_limit_is_filled_behind_canaries(make_searcher: Callable[..., Searcher], library: Library) -> None:
    for number in range(20):
        library.put(f"{CANARY_PREFIX}{number}", 0.0)
    for angle, name in enumerate("abc", 1):
        library.put(name, angle)
    assert doc_ids(find(make_searcher(), limit=3)) == ["a", "b", "c"]


def test_rows_are_counted_without_canaries(milvus: FakeMilvus, library: Library) -> None:
    library.put(f"{CANARY_PREFIX}1", 0.0)
    for name in NEAR:
        library.put(name, 0.0)
    rows = milvus.query(COLLECTION, EXCEPT_CANARIES, ["doc_id"])
    assert sorted(row["doc_id"] for row in rows) == sorted(NEAR)
    assert [row["doc_id"] for row in milvus.query(COLLECTION, ONLY_CANARIES, ["doc_id"])] == [f"{CANARY_PREFIX}1"]
    assert not any(map(is_canary, NEAR))
    assert is_canary(f"{CANARY_PREFIX}1")
    assert not is_canary(None)


def test_an_explanation_counts_no_canary(make_searcher: Callable[..., Searcher], library: Library) -> None:
    library.put(f"{CANARY_PREFIX}1", 0.0)
    library.put("a", 1.0)
    explanation = find(make_searcher(), explain=True).explanation
    assert explanation is not None
    assert explanation.candidates == 1
    [result] = explanation.queries[0].results
    assert result.orders["dense"].rank == 1


def test_the_metadata_of_canaries_is_not_known(make_searcher: Callable[..., Searcher], library: Library) -> None:
    library.put(f"{CANARY_PREFIX}1", 0.0, probe="x")
    library.put("a", 1.0)
    searcher = make_searcher()
    [warning] = find(searcher, filter=eq("probe")).warnings
    assert "no row with such a field" in warning
    assert searcher.metadata_names(10) == []


def test_a_canary_among_the_candidates_does_not_hide_that_there_are_more(searcher: Searcher, library: Library) -> None:
    library.put(f"{CANARY_PREFIX}1", 0.0, lang="en")
    for chunk in range(3):
        library.put("long", 1.0 + chunk, chunk=chunk, lang="en")
    library.put("b", 50.0, lang="en")
    found = find(searcher, limit=1, filter=eq("lang", "en"))  # reads 4 rows: none of b
    assert doc_ids(found) == ["long"]
    assert found.more
