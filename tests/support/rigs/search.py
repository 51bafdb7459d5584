"""A small collection of documents in a fake Milvus, and a clock that the test moves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.query import FetchSettings, Searcher, SearchResult, SearchSettings, parse_request
from pipeline.query.request.filters import Filter
from pipeline.records import Position
from pipeline.store import Entry, entry_row
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec, ledger_spec
from pipeline.store.partition_names import partition_name
from pipeline.timestamps import event_time_ms
from tests.support.fakes.milvus import FakeMilvus

EAST = np.array([[1.0, 0.0]], np.float32)
COLLECTION = "documents"
LEDGER = "documents__ledger"
DOCUMENTS = documents_spec(COLLECTION, dimension=2, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=False)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Library:
    """Puts chunks where a query at angle 0 has them at `angle` degrees: nearer is smaller."""

    def __init__(self, api: FakeMilvus) -> None:
        self.api = api
        self._count = sum(map(len, api.stored(COLLECTION).values()))

    def put(
        self, doc_id: str, angle: float, day: str = "2026-11-22", *, chunk: int = 0, offset: int = 1, **metadata: object
    ) -> str:
        event_time = event_time_ms(day)
        partition = partition_name("day", event_time)
        self.api.create_partition(COLLECTION, partition)
        self._count += 1
        row = {
            "id": f"{self._count:064x}",
            "doc_id": doc_id,
            "chunk": chunk,
            "text": f"chunk {chunk} of {doc_id}",
            "vector": np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], np.float32),
            "event_time": event_time,
            "kafka_topic": "topic",
            "kafka_partition": 0,
            "kafka_offset": offset,
            **metadata,
        }
        self.api.upsert(COLLECTION, partition, [row])
        return str(row["id"])

    def enter(self, doc_id: str, offset: int, **changes: Any) -> None:
        """Write the ledger row of a document whose stored version came from this record."""
        self.api.create_collection(ledger_spec(COLLECTION))
        self.api.upsert(LEDGER, None, [entry_row(entry(doc_id, offset, **changes))])


def entry(doc_id: str, offset: int, *, partition: int = 0, **changes: Any) -> Entry:
    """The ledger entry of a live document whose change is finished."""
    position = Position("topic", partition, offset)
    new = Entry(doc_id, None, position, 0, 0, False, "live", {"d20261122": 1}, "", "", "", "", pending=False)
    return new._replace(**changes)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def milvus() -> FakeMilvus:
    api = FakeMilvus()
    api.create_collection(DOCUMENTS)
    return api


@pytest.fixture
def library(milvus: FakeMilvus) -> Library:
    return Library(milvus)


@pytest.fixture
def make_searcher(milvus: FakeMilvus, clock: Clock) -> Callable[..., Searcher]:
    def make(*, max_answer_bytes: int = 8 * 1024 * 1024, one_version: bool = True, **fetch: Any) -> Searcher:
        settings = SearchSettings(FetchSettings(**fetch), max_answer_bytes)
        return Searcher(milvus, COLLECTION, settings, clock, one_version=lambda _: one_version)

    return make


@pytest.fixture
def searcher(make_searcher: Callable[..., Searcher]) -> Searcher:
    return make_searcher()


def find(
    searcher: Searcher, vectors: NDArray[np.float32] = EAST, timeout_s: float = 5.0, **body: object
) -> SearchResult:
    return searcher.search(parse_request({"query": "q", **body}), vectors, timeout_s, now_ms=0)


def doc_ids(found: SearchResult, query: int = 0) -> list[str]:
    return [result.doc_id for result in found.results[query]]


def searches(milvus: FakeMilvus) -> int:
    return sum(operation == "search" for operation, _, _ in milvus.calls)


def eq(key: object, value: object = "x") -> dict[str, object]:
    return {"type": "eq", "key": key, "value": value}


def parse_filter(node: object) -> Filter:
    """A filter as a request holds it; raises InvalidRequest."""
    parsed = parse_request({"query": "q", "filter": node}).filter
    assert parsed is not None
    return parsed


def leaf(operator: str, key: object, value: object) -> dict[str, Any]:
    """A comparison in a request."""
    return {"type": operator, "key": key, "value": value}
