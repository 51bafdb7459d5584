"""Documents without a search: counted, dated and listed, within a deadline and for one tenant."""

from typing import Any

import pytest
from typing_extensions import override

from pipeline.query import InvalidRequest
from pipeline.query.candidates import DeadlinePassed
from pipeline.query.listing import TIMEOUT_S, DocumentListing
from pipeline.timestamps import event_time_ms
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, DOCUMENTS, Clock, Library, eq, parse_filter


def listing(milvus: FakeMilvus, clock: Clock | None = None) -> DocumentListing:
    info = milvus.describe(COLLECTION)
    assert info is not None
    return DocumentListing(milvus, info, clock or Clock())


def test_the_newest_time_is_found_to_the_second(milvus: FakeMilvus, library: Library) -> None:
    for moment in ("2026-11-20T10:00:00Z", "2026-11-22T23:59:59.750Z", "1950-01-01"):
        library.put(moment, 0.0, moment)
    found = listing(milvus).statistics()
    assert (found.documents, found.newest_ms) == (3, event_time_ms("2026-11-22T23:59:59Z"))


def test_a_time_after_every_partition_counts_too(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0, "2026-11-22")
    (row,) = milvus.query(COLLECTION, "chunk == 0", ["*"], limit=1)
    moved = {**row, "id": "f" * 64, "doc_id": "b", "event_time": event_time_ms("2030-01-01"), "vector": row["vector"]}
    milvus.upsert(COLLECTION, "d20261122", [moved])
    assert listing(milvus).statistics().newest_ms == event_time_ms("2030-01-01")


def test_another_tenants_documents_are_not_there(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0, "2026-11-22", tenant="x", word="secret")
    library.put("b", 0.0, "2026-11-20", tenant="y", word="mine")
    found = listing(milvus).statistics(tenant="y")
    assert (found.documents, found.newest_ms) == (1, event_time_ms("2026-11-20"))
    assert [one.doc_id for one in listing(milvus).documents(None, tenant="y")] == ["b"]
    either = parse_filter({"type": "or", "filters": [eq("word", "secret"), eq("word", "mine")]})
    assert [one.doc_id for one in listing(milvus).documents(either, tenant="y")] == ["b"]
    assert listing(milvus).documents(None, tenant='" or chunk >= 0 or "" == "') == []


def test_documents_of_two_tenants_with_one_id_stay_two(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0, tenant="x")
    library.put("a", 0.0, tenant="y")
    assert [one.metadata["tenant"] for one in listing(milvus).documents(None)] in (["x", "y"], ["y", "x"])


def test_all_calls_share_one_deadline(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    clock = Clock()
    calls = 0

    def slow(operation: str, collection: str, when: str) -> None:
        nonlocal calls
        if operation == "query" and when == "before":
            calls += 1
            clock.now += TIMEOUT_S / 4

    milvus.hook = slow
    with pytest.raises(DeadlinePassed):
        listing(milvus, clock).statistics()
    assert calls == 4


class Weighed(FakeMilvus):
    """Counts the characters of each answer to a query."""

    def __init__(self) -> None:
        super().__init__()
        self.create_collection(DOCUMENTS)
        self.sizes: list[int] = []

    @override
    def query(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        rows = super().query(*arguments, **options)
        self.sizes.append(len(str(rows)))
        return rows


def test_metadata_is_read_by_pages_and_no_further_than_an_answer_may_be_long() -> None:
    milvus = Weighed()
    library = Library(milvus)
    for number in range(400):
        library.put(f"d{number:03}", 0.0, big="x" * 60_000)
    with pytest.raises(InvalidRequest, match="too large"):
        listing(milvus).documents(None)
    assert max(milvus.sizes) < 128 * 61_000
    assert sum(milvus.sizes) < 3 * 128 * 61_000, "the third page and the fourth are not read"
    assert len(listing(milvus).documents(parse_filter({"type": "prefix", "key": "doc_id", "value": "d00"}))) == 10


def test_documents_of_several_pages_are_all_listed_once(milvus: FakeMilvus, library: Library) -> None:
    names = [f"d{number:03}" for number in range(300)]
    for name in names:
        library.put(name, 0.0, "2026-11-20", old=True)
        library.put(name, 0.0, "2026-11-22", offset=2, new=True)
    found = listing(milvus).documents(None)
    assert [one.doc_id for one in found] == names
    assert all(one.metadata == {"new": True} for one in found)


def test_a_document_that_is_deleted_between_the_reads_is_left_out(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    gone = library.put("b", 0.0)

    def delete(operation: str, collection: str, when: str) -> None:
        if operation == "query" and when == "after" and len(milvus.calls) == before + 2:
            milvus.put_back(COLLECTION, "d20261122", gone, None)

    before = len(milvus.calls) + 1  # the description, the count, the ids
    milvus.hook = delete
    assert [one.doc_id for one in listing(milvus).documents(None)] == ["a"]
