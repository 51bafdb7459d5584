"""The searcher over a fake Milvus: what it covers, what it shows, and what it does about races and outages."""

import threading
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from pipeline.errors import Mismatch, Unavailable
from pipeline.query import (
    DeadlinePassed,
    InvalidRequest,
    Searcher,
)
from pipeline.query.answer import Skipped
from pipeline.store import check_model
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, DOCUMENTS, Clock, Library, doc_ids, eq, find
from tests.support.waiting import eventually


def test_a_result_says_everything(searcher: Searcher, library: Library) -> None:
    row_id = library.put("a", 60.0, offset=7, chunk=3, title="A", tags=["x"])
    (result,) = find(searcher).results[0]
    assert result.score == pytest.approx(0.5)
    assert (result.id, result.doc_id, result.text, result.chunk) == (row_id, "a", "chunk 3 of a", 3)
    assert (result.event_time, result.partition) == ("2026-11-22T00:00:00Z", "d20261122")
    assert (result.source.topic, result.source.partition, result.source.offset) == ("topic", 0, 7)
    assert result.metadata == {"title": "A", "tags": ["x"]}


class Ticking:
    """A clock on which a second passes between any two calls."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_highlights_end_with_the_time_of_the_request(milvus: FakeMilvus, library: Library) -> None:
    for number in range(20):
        library.put(f"doc {number}", float(number), text="q " * 10)
    found = find(Searcher(milvus, COLLECTION, None, Ticking()), timeout_s=16.0, highlights=True, limit=20)
    assert found.partial
    assert found.more
    assert 0 < len(doc_ids(found)) < 20
    assert found.results[0][0].highlights == tuple((start, start + 1) for start in range(0, 20, 2))
    assert len(doc_ids(find(Searcher(milvus, COLLECTION, None, Ticking()), timeout_s=16.0, limit=20))) == 20


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


def test_a_partition_dropped_by_retention_during_a_search(
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
    eventually(lambda: doc_ids(find(searcher)) == ["doc 20", "doc 21", "doc 22"])


def test_load_states_are_refreshed_beside_the_searches(
    searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock
) -> None:
    library.put("doc", 0.0, "2026-11-20")
    assert doc_ids(find(searcher)) == ["doc"]
    asked, answered = threading.Event(), threading.Event()

    def slow(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        if operation == "load_state" and when == "before":
            asked.set()
            assert answered.wait(10)
            raise Unavailable("away")

    milvus.hook = slow
    clock.now += 31
    assert doc_ids(find(searcher)) == ["doc"], "it waits for no listing"
    assert asked.wait(10)
    assert doc_ids(find(searcher)) == ["doc"]
    answered.set()
    eventually(lambda: not searcher._partitions._refreshing.locked())
    milvus.hook = None
    milvus.release_partitions(COLLECTION, ["d20261120"])
    clock.now += 31
    eventually(lambda: find(searcher).searched.skipped == (Skipped("d20261120", "not_loaded"),))


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
