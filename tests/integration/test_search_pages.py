"""Highlights, facets and pages of a search on a real Milvus and on Milvus Lite."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from pipeline.query import Cursors, DirectEmbedder, SearchAnswer, Searcher, SearchService
from pipeline.store import IndexSettings, MilvusServerApi, connect, open_collection
from pipeline.store.partition_names import partition_name
from pipeline.telemetry.metrics import QueryMetrics
from pipeline.timestamps import event_time_ms
from tests.support.names import unique
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

DIMENSION = 8
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")
DOCUMENTS = 60


class Shelf:
    """Documents of two chunks on three days, the lower their number the nearer to every query."""

    def __init__(self, api: MilvusServerApi, name: str) -> None:
        self.api = api
        self.name = name
        self.service = SearchService(
            Searcher(api, name),
            DirectEmbedder(self._embed),
            QueryMetrics(CollectorRegistry()),
            cursors=Cursors(b"k" * 16, name),
        )

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.repeat(np.eye(1, DIMENSION, dtype=np.float32), len(texts), axis=0)

    def put(self, number: int, nearness: float, **metadata: Any) -> None:
        date = DAYS[number % 3]
        partition = partition_name("day", event_time_ms(date))
        self.api.create_partition(self.name, partition)
        rows = []
        for chunk in range(2):
            vector = np.eye(1, DIMENSION, dtype=np.float32)[0]
            vector[1] = nearness + chunk / 1_000
            rows.append(
                {
                    "id": f"{number * 2 + chunk:064x}",
                    "doc_id": f"doc {number:03}",
                    "chunk": chunk,
                    "text": f"Document {number} arrived. The refund failed at 東京都。",
                    "vector": vector,
                    "event_time": event_time_ms(date) + number,
                    "kafka_topic": "t",
                    "kafka_partition": 0,
                    "kafka_offset": number,
                    **metadata,
                }
            )
        self.api.upsert(self.name, partition, rows)

    def fill(self) -> None:
        for number in range(DOCUMENTS):
            tags = ["all", "even" if number % 2 == 0 else "odd"]
            tenant = "x" if number < 40 else "y"
            self.put(number, number / 50, lang="en" if number < 45 else "de", tags=tags, tenant=tenant, **{"a b": True})
        eventually(
            lambda: len(self.ask(query="q", limit=200, group_by=None).results) == 2 * DOCUMENTS,
            what="all rows to be searchable",
        )

    def ask(self, tenant: str | None = None, **body: Any) -> SearchAnswer:
        answer = asyncio.run(self.service.answer({"timeout_ms": 20_000, **body}, tenant=tenant))
        assert isinstance(answer, SearchAnswer)
        return answer

    def pages(self, *limits: int, tenant: str | None = None, **body: Any) -> list[SearchAnswer]:
        pages = [self.ask(tenant, limit=limits[0], **body)]
        while (cursor := pages[-1].next_cursor) is not None:
            pages.append(self.ask(tenant, cursor=cursor, limit=limits[len(pages) % len(limits)]))
            assert len(pages) < 100
        return pages


@pytest.fixture(scope="module", params=["milvus_uri", "milvus_lite_uri"])
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    with closing(connect(request.getfixturevalue(request.param))) as api:
        name = unique("pages")
        try:
            open_collection(api, name, {"name": "test"}, DIMENSION, IndexSettings("FLAT"), create=True)
            made = Shelf(api, name)
            made.fill()
            yield made
            made.service.close()
        finally:
            api.drop_collection(name)


def ids(*pages: SearchAnswer) -> list[str]:
    return [result.doc_id for page in pages for result in page.results]


def test_a_text_has_highlights_and_a_passage(shelf: Shelf) -> None:
    (result,) = shelf.ask(query="REFUND 東京", mode="dense", highlights=True, limit=1).results
    assert result.highlights is not None
    assert result.passage is not None
    assert [result.text[start:end] for start, end in result.highlights] == ["refund", "東京"]
    assert result.text[slice(*result.passage)] == "The refund failed at 東京都。"


def test_values_are_counted_over_all_that_match(shelf: Shelf) -> None:
    found = shelf.ask(query="q", facets=["lang", "tags", "a b", "none", "kafka_topic"], limit=1)
    assert found.facets is not None
    assert {facet.name: {one.value: one.count for one in facet.values} for facet in found.facets.fields} == {
        "lang": {"en": 45, "de": 15},
        "tags": {"all": 60, "even": 30, "odd": 30},
        "a b": {True: 60},
        "none": {},
        "kafka_topic": {"t": 60},
    }
    assert (found.facets.sampled, found.facets.rows_read, found.facets.rows) == (False, 120, 120)
    narrow: dict[str, Any] = {
        "filter": {"type": "eq", "key": "lang", "value": "en"},
        "time": {"from": "2026-11-21", "to": "2026-11-22"},
    }
    found = shelf.ask("x", query="q", facets=["lang"], group_by=None, **narrow)
    assert found.facets is not None
    assert [(one.value, one.count) for one in found.facets.fields[0].values] == [("en", 26)]
    assert found.facets.rows == 26


def test_more_rows_than_are_read_are_a_sample(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.query.facets.FIRST_ROWS", 10)
    monkeypatch.setattr("pipeline.query.facets.MAX_ROWS", 50)
    facets = shelf.ask(query="q", facets=["lang"], group_by=None).facets
    assert facets is not None
    assert (facets.sampled, facets.rows_read, facets.rows) == (True, 50, 120)
    assert sum(one.count for one in facets.fields[0].values) == 50


@pytest.mark.parametrize("name", ["][", "a][b", '"', "\\", "é", "*", "count(*)", "id", "doc_id"])
def test_any_name_can_be_counted(shelf: Shelf, name: str) -> None:
    found = shelf.ask(query="q", facets=[name], limit=1)
    assert found.facets is not None
    assert found.warnings == ()
    assert len(found.results) == 1


@pytest.mark.parametrize("limits", [(7,), (1, 30, 4), (60,)])
def test_pages_are_one_large_page(shelf: Shelf, limits: tuple[int, ...]) -> None:
    everything = shelf.ask(query="q", mode="dense", limit=200)
    assert ids(everything) == [f"doc {number:03}" for number in range(DOCUMENTS)]
    assert ids(*shelf.pages(*limits, query="q", mode="dense")) == ids(everything)
    of_tenant = shelf.pages(*limits, tenant="y", query="q", mode="dense", time={"from": "2026-11-21"})
    assert ids(*of_tenant) == [f"doc {number:03}" for number in range(40, DOCUMENTS) if number % 3]
    chunks = shelf.pages(*limits, query="q", mode="dense", group_by=None)
    assert len({(result.doc_id, result.chunk) for page in chunks for result in page.results}) == 2 * DOCUMENTS


def test_a_search_without_a_mode_shows_each_document_once(shelf: Shelf) -> None:
    assert sorted(ids(*shelf.pages(9, query="Refund document 17"))) == [
        f"doc {number:03}" for number in range(DOCUMENTS)
    ]


def test_a_document_that_arrives_or_changes_between_pages_repeats_nothing(shelf: Shelf) -> None:
    first = shelf.ask(query="q", mode="dense", limit=10)
    shelf.put(0, 0.5, lang="en", tenant="x")
    shelf.put(900, 0.0, lang="en", tenant="x")
    try:
        eventually(
            lambda: ids(shelf.ask(query="q", mode="dense", limit=2)) == ["doc 900", "doc 001"], what="both changes"
        )
        second = shelf.ask(cursor=first.next_cursor, limit=100)
        assert ids(second) == ["doc 900", *(f"doc {number:03}" for number in range(10, DOCUMENTS))]
    finally:
        shelf.put(0, 0.0, lang="en", tags=["all", "even"], tenant="x", **{"a b": True})
        shelf.api.delete(
            shelf.name, partition_name("day", event_time_ms(DAYS[0])), [f"{1_800 + n:064x}" for n in (0, 1)]
        )
        eventually(
            lambda: ids(shelf.ask(query="q", mode="dense", limit=2)) == ["doc 000", "doc 001"],
            what="the rows of before",
        )
