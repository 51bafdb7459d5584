"""A small collection of documents in a fake Milvus, and a clock that the test moves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.query import FetchSettings, Searcher, SearchSettings
from pipeline.query.request import parse_time
from pipeline.store.indexes import IndexSettings
from pipeline.store.partitions import partition_name
from pipeline.store.schema import documents_spec
from tests.support.fake_milvus import FakeMilvus

COLLECTION = "documents"
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
        self._count = 0

    def put(
        self, doc_id: str, angle: float, day: str = "2026-11-22", *, chunk: int = 0, offset: int = 1, **metadata: object
    ) -> str:
        event_time = parse_time(day)
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
    def make(*, max_answer_bytes: int = 8 * 1024 * 1024, **fetch: Any) -> Searcher:
        settings = SearchSettings(FetchSettings(**fetch), max_answer_bytes)
        return Searcher(milvus, COLLECTION, settings, clock)

    return make


@pytest.fixture
def searcher(make_searcher: Callable[..., Searcher]) -> Searcher:
    return make_searcher()
