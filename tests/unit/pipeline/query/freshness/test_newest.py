"""The newest event time, by few reads of bounded size."""

from pipeline.query import NewestEventTime
from pipeline.records import CANARY_PREFIX
from pipeline.timestamps import event_time_ms
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, Library


def reads(milvus: FakeMilvus) -> int:
    return sum(operation == "query" for operation, _, _ in milvus.calls)


def test_there_is_none_without_a_document_or_a_collection(milvus: FakeMilvus) -> None:
    assert NewestEventTime(milvus, COLLECTION).read() is None
    assert NewestEventTime(milvus, "missing").read() is None


def test_it_is_found_among_more_rows_than_a_read_answers(milvus: FakeMilvus) -> None:
    library = Library(milvus)
    for number in range(600):
        library.put(str(number), 0.0, f"2026-11-{1 + number % 22:02}")
    newest = NewestEventTime(milvus, COLLECTION)
    times = {newest.read() for _ in range(3)}
    assert max(time for time in times if time) == event_time_ms("2026-11-22")
    library.put("later", 0.0, "2026-11-23")
    before = reads(milvus)
    assert newest.read() == event_time_ms("2026-11-23")
    assert newest.read() == event_time_ms("2026-11-23")
    assert reads(milvus) - before == 3


def test_a_canary_is_no_document(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0, "2026-11-21")
    library.put(CANARY_PREFIX + "1", 0.0, "2026-11-22")
    assert NewestEventTime(milvus, COLLECTION).read() == event_time_ms("2026-11-21")
