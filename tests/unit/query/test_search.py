"""The searcher over a fake Milvus: what it covers, how it fills the limit, and what it does about races and outages."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import Mismatch, Unavailable
from pipeline.query import (
    DeadlinePassed,
    FetchSettings,
    Found,
    InvalidRequest,
    Limits,
    Searcher,
    SearchSettings,
    parse_request,
)
from pipeline.query.answer import Skipped
from pipeline.query.names import likeliest
from pipeline.store import check_model
from pipeline.store.api import Hit
from tests.support.fake_milvus import FakeMilvus
from tests.unit.query.conftest import COLLECTION, DOCUMENTS, Clock, Library

EAST = np.array([[1.0, 0.0]], np.float32)


def find(searcher: Searcher, vectors: NDArray[np.float32] = EAST, timeout_s: float = 5.0, **body: object) -> Found:
    return searcher.search(parse_request({"query": "q", **body}, Limits(), 0), vectors, timeout_s)


def doc_ids(found: Found, query: int = 0) -> list[str]:
    return [result.doc_id for result in found.results[query]]


def searches(milvus: FakeMilvus) -> int:
    return sum(operation == "search" for operation, _, _ in milvus.calls)


def test_a_result_says_everything(searcher: Searcher, library: Library) -> None:
    row_id = library.put("a", 60.0, offset=7, chunk=3, title="A", tags=["x"])
    (result,) = find(searcher).results[0]
    assert result.score == pytest.approx(0.5)
    assert (result.id, result.doc_id, result.text, result.chunk) == (row_id, "a", "chunk 3 of a", 3)
    assert (result.event_time, result.partition) == ("2026-11-22T00:00:00Z", "d20261122")
    assert (result.source.topic, result.source.partition, result.source.offset) == ("topic", 0, 7)
    assert result.metadata == {"title": "A", "tags": ["x"]}


def test_fields_choose_the_metadata(searcher: Searcher, library: Library) -> None:
    library.put("a", 0.0, title="A", url="u")
    assert find(searcher, fields=["url", "none"]).results[0][0].metadata == {"url": "u"}
    assert find(searcher, fields=[]).results[0][0].metadata == {}
    assert find(searcher, fields=["vector", "doc_id"]).results[0][0].metadata == {}


def test_documents_by_their_best_chunk(searcher: Searcher, library: Library) -> None:
    for chunk, angle in enumerate([50.0, 10.0, 30.0]):
        library.put("a", angle, chunk=chunk)
    library.put("b", 20.0)
    found = find(searcher)
    assert [(result.doc_id, result.chunk) for result in found.results[0]] == [("a", 1), ("b", 0)]
    assert doc_ids(find(searcher, group_by=None)) == ["a", "b", "a", "a"]


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

    def search(self, *arguments: Any, **options: Any) -> list[list[Hit]]:
        found = super().search(*arguments, **options)
        self.reads.append(("search", sum(map(len, found)), "text" in options["fields"]))
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
        calls += operation == "query" and when == "before"
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


def test_each_query_of_a_list_has_its_results(searcher: Searcher, library: Library) -> None:
    library.put("east", 0.0)
    library.put("north", 90.0)
    found = find(searcher, np.array([[1, 0], [0, 1]], np.float32), query=["a", "b"], limit=1)
    assert [doc_ids(found, index) for index in (0, 1)] == [["east"], ["north"]]


def test_a_time_range_names_what_is_searched_and_skipped(searcher: Searcher, library: Library) -> None:
    for day in (20, 21, 22):
        library.put(f"doc {day}", 0.0, f"2026-11-{day}T12:00:00Z")
    found = find(searcher, time={"from": "2026-11-21T06:00:00Z", "to": "2026-11-22T12:00:00Z"})
    assert doc_ids(found) == ["doc 21"]
    assert found.searched.partitions == ("d20261121", "d20261122")
    assert found.searched.skipped == (Skipped("d20261120", "outside_time_range"),)
    everything = find(searcher)
    assert everything.searched.partitions == ("d20261120", "d20261121", "d20261122")
    assert everything.searched.skipped == ()


def test_rows_outside_the_time_partitions_are_found_too(
    searcher: Searcher, library: Library, milvus: FakeMilvus
) -> None:
    row_id = library.put("a", 0.0)
    row = milvus.stored(COLLECTION)["d20261122"][row_id]
    milvus.drop_partition(COLLECTION, "d20261122")
    milvus.upsert(COLLECTION, None, [row])
    found = find(searcher, time={"from": "2026-11-22"})
    assert [(result.doc_id, result.partition) for result in found.results[0]] == [("a", "_default")]
    assert found.searched.partitions == ("_default",)


def test_a_partition_dropped_by_retention_meanwhile(
    searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock
) -> None:
    for day in (20, 21, 22):
        library.put(f"doc {day}", day, f"2026-11-{day}")
    before = {"to": "2026-11-22"}
    assert doc_ids(find(searcher, time=before)) == ["doc 20", "doc 21"]
    milvus.drop_partition(COLLECTION, "d20261120")
    found = find(searcher, time=before)  # the listing of before is not a second old
    assert doc_ids(found) == ["doc 21"]
    assert found.searched.partitions == ("d20261121",)
    assert Skipped("d20261120", "dropped") in found.searched.skipped
    clock.now += 2
    assert find(searcher, time=before).searched.skipped == (Skipped("d20261122", "outside_time_range"),)


def test_a_new_partition_is_searched_within_a_second(searcher: Searcher, library: Library, clock: Clock) -> None:
    library.put("old", 0.0, "2026-11-20")
    assert doc_ids(find(searcher, time={"from": "2026-11-21"})) == []
    library.put("new", 1.0, "2026-11-22")
    assert doc_ids(find(searcher)) == ["old", "new"]
    clock.now += 1.0
    assert doc_ids(find(searcher, time={"from": "2026-11-21"})) == ["new"]


def test_released_partitions_are_skipped_by_name(
    searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock
) -> None:
    for day in (20, 21, 22):
        library.put(f"doc {day}", day, f"2026-11-{day}")
    milvus.release_partitions(COLLECTION, ["d20261120"])
    found = find(searcher)
    assert doc_ids(found) == ["doc 21", "doc 22"]
    assert found.searched.skipped == (Skipped("d20261120", "not_loaded"),)
    milvus.release_partitions(COLLECTION, ["d20261121"])  # found out by the error, not by the clock
    assert doc_ids(find(searcher, time={"to": "2026-11-23"})) == ["doc 22"]
    milvus.load_partitions(COLLECTION, ["d20261120", "d20261121"])
    clock.now += 31
    assert doc_ids(find(searcher)) == ["doc 20", "doc 21", "doc 22"]


def test_only_the_newest_version_is_shown(
    searcher: Searcher, make_searcher: Callable[..., Searcher], library: Library
) -> None:
    library.put("moved", 1.0, "2026-11-20", offset=5)
    library.put("moved", 40.0, "2026-11-22", offset=6)
    library.put("other", 20.0)
    found = find(searcher)
    assert [(result.doc_id, result.source.offset) for result in found.results[0]] == [("other", 1), ("moved", 6)]
    assert len(find(make_searcher(one_version=False), group_by=None).results[0]) == 3


def test_documents_of_two_tenants_may_share_an_id(searcher: Searcher, library: Library) -> None:
    library.put("a", 1.0, offset=5, tenant="one")
    library.put("a", 2.0, offset=6, tenant="two")
    everything: list[str] | None = None
    for fields in (everything, []):
        assert [result.source.offset for result in find(searcher, fields=fields).results[0]] == [5, 6]


def test_a_filter(searcher: Searcher, library: Library) -> None:
    library.put("a", 0.0, lang="en", year=2025)
    library.put("b", 1.0, lang="de", year=2026)
    library.put("c", 2.0)
    assert doc_ids(find(searcher, filter={"type": "ne", "key": "lang", "value": "en"})) == ["b", "c"]
    both = {
        "type": "and",
        "filters": [{"type": "gte", "key": "year", "value": 2025}, {"type": "prefix", "key": "lang", "value": "d"}],
    }
    assert doc_ids(find(searcher, filter=both, time={"from": "2026-01-01"})) == ["b"]


def eq(key: str, value: object = "x") -> dict[str, object]:
    return {"type": "eq", "key": key, "value": value}


def test_a_field_that_no_row_has_is_reported(
    searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock
) -> None:
    library.put("a", 0.0, language="en")
    assert find(searcher, filter=eq("language")).warnings == ()
    found = find(searcher, filter=eq("langauge"))
    assert found.warnings == (
        "the filter names 'langauge', and no row with such a field was found; did you mean 'language'?",
    )
    before = searches(milvus)
    assert find(searcher, filter=eq("langauge")).warnings == found.warnings
    assert searches(milvus) == before + 1  # the search alone: the name is known to be missing
    library.put("b", 0.0, langauge="x")
    clock.now += 11
    assert find(searcher, filter=eq("langauge")).warnings == ()


def test_all_unknown_names_take_one_call(searcher: Searcher, library: Library, milvus: FakeMilvus) -> None:
    library.put("a", 0.0)
    names = [f"name {number}" for number in range(16)]
    before = searches(milvus)
    found = find(searcher, filter={"type": "or", "filters": [eq(name) for name in names]})
    assert len(found.warnings) == 16
    assert searches(milvus) == before + 2


def test_a_name_asked_for_with_one_that_exists_is_reported_by_the_next_search(
    searcher: Searcher, library: Library
) -> None:
    library.put("a", 0.0, language="en")
    both = {"type": "and", "filters": [eq("language"), eq("langauge")]}
    assert find(searcher, filter=both).warnings == ()
    (warning,) = find(searcher, filter=both).warnings
    assert warning.endswith("did you mean 'language'?")


def test_no_name_is_suggested_after_the_deadline(
    searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock
) -> None:
    library.put("a", 0.0, language="en")

    def slow(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        clock.now += 3 * (operation == "search" and when == "after")

    assert find(searcher).results[0][0].metadata == {"language": "en"}
    milvus.hook = slow
    (warning,) = find(searcher, filter=eq("langauge"), timeout_s=6.0).warnings
    assert warning.endswith("was found")
    (warning,) = find(searcher, filter=eq("langauge"), timeout_s=6.0).warnings
    assert warning.endswith("did you mean 'language'?")


def test_few_names_are_compared_and_the_right_one_is_among_them() -> None:
    names = [f"{letter}{'x' * length}{number}" for letter in "abcdefghij" for length in range(1, 190, 9)
             for number in range(50)]  # fmt: skip
    assert len(names) > 10_000
    assert len(likeliest("language", [*names, "langauge"])) <= 200
    assert "langauge" in likeliest("language", ["l" * 8] * 100 + names + ["langauge"])
    assert likeliest("n" * 200, ["n" * 199] * 10) == []
    assert max(map(len, likeliest("n" * 64, ["n" * 65, "n" * 64, "n" * 63]))) == 64


def test_declared_fields_are_never_reported(searcher: Searcher, library: Library) -> None:
    library.put("a", 0.0)
    assert find(searcher, filter=eq("doc_id", "z")).warnings == ()


def test_an_outage_while_looking_for_a_name_spoils_nothing(
    searcher: Searcher, library: Library, milvus: FakeMilvus
) -> None:
    library.put("a", 0.0)
    expected: Sequence[str] = doc_ids(find(searcher, filter={"type": "ne", "key": "b", "value": 1}))
    calls = 0

    def probe_fails(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        nonlocal calls
        calls += operation == "search" and when == "before"
        if calls == 2:
            raise Unavailable("gone")

    milvus.hook = probe_fails
    found = find(searcher, filter={"type": "ne", "key": "c", "value": 1})
    assert (doc_ids(found), found.warnings, found.partial) == (expected, (), False)


def test_a_filter_that_does_not_fit_the_collection(searcher: Searcher) -> None:
    with pytest.raises(InvalidRequest, match="/filter/value"):
        find(searcher, filter=eq("chunk", "x"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_vector_without_a_direction(searcher: Searcher, bad: float) -> None:
    vectors = np.array([[1, 0], [bad, 0]], np.float32)
    with pytest.raises(InvalidRequest) as caught:
        find(searcher, vectors, query=["a", "b"])
    assert caught.value.at == "/query/1"


def test_no_collection_yet(milvus: FakeMilvus, clock: Clock) -> None:
    searcher = Searcher(milvus, "nothing", clock=clock)
    for ask in (searcher.check, lambda: find(searcher)):
        with pytest.raises(Unavailable, match="ingest worker"):
            ask()


def test_a_collection_that_comes_back(searcher: Searcher, library: Library, milvus: FakeMilvus) -> None:
    library.put("a", 0.0)
    assert doc_ids(find(searcher)) == ["a"]
    milvus.drop_collection(COLLECTION)
    with pytest.raises(Unavailable):
        find(searcher)
    milvus.create_collection(DOCUMENTS)
    assert find(searcher).results == ((),)


def test_milvus_down(searcher: Searcher, milvus: FakeMilvus) -> None:
    milvus.down = True
    for ask in (searcher.check, lambda: find(searcher)):
        with pytest.raises(Unavailable):
            ask()


def test_the_time_runs_out(searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock) -> None:
    library.put("a", 0.0)

    def slow(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        if operation == "search":
            clock.now += 5
            raise Unavailable("deadline exceeded")

    milvus.hook = slow
    with pytest.raises(DeadlinePassed):
        find(searcher, timeout_s=5.0)
    milvus.hook = None
    with pytest.raises(DeadlinePassed):
        find(searcher, timeout_s=0.0)


def test_a_collection_made_later_of_another_model_is_not_searched(milvus: FakeMilvus) -> None:
    stamp = {"name": "other", "digest": "2"}
    searcher = Searcher(milvus, COLLECTION, accept=lambda info: check_model(info, stamp))
    with pytest.raises(Mismatch, match="another model"):
        find(searcher)
