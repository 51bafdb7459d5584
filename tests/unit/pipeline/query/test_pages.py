"""Pages of one search through the service: what each next one shows, and what a cursor pins."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from pipeline.errors import Unavailable
from pipeline.query import Cursors, DirectEmbedder, FetchSettings, InvalidRequest, SearchAnswer, Searcher, SearchService
from pipeline.query import SearchSettings as Settings
from pipeline.store import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import ServerInfo
from pipeline.telemetry.metrics import QueryMetrics
from pipeline.timestamps import event_time_ms
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, Library, eq


class Reader:
    """A client that reads pages from a service."""

    def __init__(self, milvus: FakeMilvus, *, max_results: int = 100, one_version: bool = True, **fetch: Any) -> None:
        self.embedded: list[str] = []
        searcher = Searcher(milvus, COLLECTION, Settings(FetchSettings(**fetch)), one_version=lambda _: one_version)
        self.service = SearchService(
            searcher,
            DirectEmbedder(self._embed),
            QueryMetrics(CollectorRegistry()),
            max_results=max_results,
            cursors=Cursors(b"k" * 16, COLLECTION),
        )

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.embedded.extend(texts)
        return np.array([[1, 0]] * len(texts), np.float32)

    def ask(self, tenant: str | None = None, **body: Any) -> SearchAnswer:
        answer = asyncio.run(self.service.answer(body, tenant=tenant))
        assert isinstance(answer, SearchAnswer)
        return answer

    def first(self, **body: Any) -> SearchAnswer:
        return self.ask(query="q", **body)

    def next(self, answer: SearchAnswer, **options: Any) -> SearchAnswer:
        assert answer.next_cursor is not None
        return self.ask(cursor=answer.next_cursor, **options)

    def refusal(self, **body: Any) -> InvalidRequest:
        with pytest.raises(InvalidRequest) as refused:
            self.ask(**body)
        return refused.value


@pytest.fixture
def make_reader(milvus: FakeMilvus) -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def make(**options: Any) -> Reader:
        readers.append(Reader(milvus, **options))
        return readers[-1]

    yield make
    for reader in readers:
        reader.service.close()


@pytest.fixture
def reader(make_reader: Callable[..., Reader]) -> Reader:
    return make_reader()


@pytest.fixture
def filled(library: Library) -> Library:
    for number in range(7):
        for chunk in range(3):
            library.put(f"doc {number}", 5.0 * number + chunk, chunk=chunk, lang="en")
    return library


def ids(answer: SearchAnswer) -> list[str]:
    return [result.doc_id for result in answer.results]


def test_pages_follow_one_another_until_there_is_no_more(reader: Reader, filled: Library) -> None:
    first = reader.first(limit=3)
    second = reader.next(first)
    third = reader.next(second)
    assert ids(first) == ["doc 0", "doc 1", "doc 2"]
    assert ids(second) == ["doc 3", "doc 4", "doc 5"]
    assert (ids(third), third.next_cursor) == (["doc 6"], None)
    assert reader.embedded == ["q", "q", "q"]


def test_a_page_may_have_another_limit(reader: Reader, filled: Library) -> None:
    first = reader.first(limit=2)
    second = reader.next(first, limit=4, timeout_ms=1_000)
    assert ids(second) == ["doc 2", "doc 3", "doc 4", "doc 5"]
    assert ids(reader.next(second)) == ["doc 6"]
    assert ids(reader.next(first)) == ["doc 2", "doc 3"], "a cursor can be used again"


def test_everything_on_one_page_has_no_cursor(reader: Reader, filled: Library) -> None:
    assert reader.first(limit=10).next_cursor is None
    assert reader.first(limit=10, filter=eq("lang", "de")).next_cursor is None


def test_chunks_are_paged_too(reader: Reader, filled: Library) -> None:
    answer = reader.first(limit=4, group_by=None)
    pages = [answer]
    while answer.next_cursor is not None:
        answer = reader.next(answer)
        pages.append(answer)
    shown = [(result.doc_id, result.chunk) for page in pages for result in page.results]
    assert shown == [(f"doc {number}", chunk) for number in range(7) for chunk in range(3)]


def test_a_chunk_of_an_older_version_does_not_follow_one_of_a_newer(reader: Reader, library: Library) -> None:
    library.put("a", 0.0, chunk=0, offset=2)
    library.put("a", 10.0, chunk=1, offset=1)
    library.put("b", 20.0)
    first = reader.first(limit=1, group_by=None)
    assert [(result.doc_id, result.chunk) for result in reader.next(first).results] == [("b", 0)]


def test_rows_of_append_mode_are_paged_by_themselves(make_reader: Callable[..., Reader], library: Library) -> None:
    for offset in range(3):
        library.put("a", float(offset), offset=offset)
    reader = make_reader(one_version=False)
    first = reader.first(limit=2, group_by=None)
    second = reader.next(first)
    assert [result.source.offset for result in (*first.results, *second.results)] == [0, 1, 2]


def test_what_arrives_between_pages_shifts_nothing(reader: Reader, filled: Library) -> None:
    first = reader.first(limit=3)
    for number in range(5):
        filled.put(f"new {number}", 0.0)
    second = reader.next(first, limit=20)
    assert ids(second) == [*(f"new {number}" for number in range(5)), "doc 3", "doc 4", "doc 5", "doc 6"]


def test_a_document_that_is_updated_between_pages_is_not_shown_again(
    reader: Reader, filled: Library, milvus: FakeMilvus
) -> None:
    first = reader.first(limit=3)
    for partition, rows in milvus.stored(COLLECTION).items():
        milvus.delete(COLLECTION, partition, [row["id"] for row in rows.values() if row["doc_id"] == "doc 0"])
    filled.put("doc 0", 60.0, "2026-11-25", offset=9)
    assert ids(reader.next(first, limit=10)) == ["doc 3", "doc 4", "doc 5", "doc 6"]


def test_last_does_not_move(reader: Reader, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = event_time_ms("2026-11-22T04:30:00Z") * 1_000_000
    monkeypatch.setattr("time.time_ns", lambda: now_ns)
    for hour in range(1, 5):
        library.put(f"doc {hour}", float(hour), f"2026-11-22T0{hour}:00:00Z")
    first = reader.first(limit=1, time={"last": "3h"})
    assert ids(first) == ["doc 2"]
    now_ns += 2 * 3_600 * 1_000_000_000
    assert ids(reader.first(time={"last": "3h"})) == ["doc 4"]
    assert ids(reader.next(first)) == ["doc 3"]
    assert ids(reader.next(first, limit=10)) == ["doc 3", "doc 4"]


def test_facets_are_on_the_first_page(reader: Reader, filled: Library) -> None:
    first = reader.first(limit=3, facets=["lang"], highlights=True)
    second = reader.next(first)
    assert first.facets is not None
    assert second.facets is None
    assert second.results[0].passage is not None


def test_the_depth_is_bounded(make_reader: Callable[..., Reader], library: Library) -> None:
    for number in range(12):
        library.put(f"doc {number:02}", float(number))
    reader = make_reader(max_results=10)
    first = reader.first(limit=8)
    second = reader.next(first)
    assert ids(second) == ["doc 08", "doc 09"]
    refusal = reader.refusal(cursor=second.next_cursor)
    assert refusal.at == "/cursor"
    assert "beyond the 10 results that one search gives" in refusal.detail


def test_where_documents_crowd_the_end_says_so(make_reader: Callable[..., Reader], library: Library) -> None:
    for chunk in range(40):
        library.put("long", chunk / 10, chunk=chunk)
    library.put("b", 50.0)
    answer = make_reader(max_candidates=16).first(limit=2)
    assert (ids(answer), answer.next_cursor, answer.partial) == (["long"], None, False)
    (warning,) = answer.warnings
    assert "there may be more results" in warning


def test_a_partial_page_can_be_continued(
    make_reader: Callable[..., Reader], library: Library, milvus: FakeMilvus
) -> None:
    for number in range(6):
        library.put(f"doc {number}", float(number))
    reader = make_reader(whole_rows=2)
    reads = 0

    def fail_the_second_read(operation: str, _collection: str, when: str) -> None:
        nonlocal reads
        reads += operation == "query" and when == "before"
        if reads == 2:
            raise Unavailable("away")

    milvus.hook = fail_the_second_read
    first = reader.first(limit=6)
    milvus.hook = None
    assert (first.partial, ids(first)) == (True, ["doc 0", "doc 1"])
    assert ids(reader.next(first)) == ["doc 2", "doc 3", "doc 4", "doc 5"]


def test_a_cursor_is_of_one_tenant(reader: Reader, library: Library) -> None:
    for number in range(4):
        library.put(f"doc {number}", float(number), tenant="x" if number % 2 else "y")
    first = reader.ask(tenant="x", query="q", limit=1, facets=["tenant"])
    assert ids(first) == ["doc 1"]
    assert first.facets is not None
    assert [(one.value, one.count) for one in first.facets.fields[0].values] == [("x", 2)]
    assert ids(reader.next(first, tenant="x")) == ["doc 3"]
    for other in ("y", None, ""):
        assert reader.refusal(tenant=other, cursor=first.next_cursor).at == "/cursor"
    of_all = reader.first(limit=1)
    assert ids(reader.next(of_all, limit=9)) == ["doc 1", "doc 2", "doc 3"]
    assert reader.refusal(tenant="x", cursor=of_all.next_cursor).at == "/cursor"


def test_two_tenants_may_have_the_same_document_id(reader: Reader, library: Library) -> None:
    library.put("a", 0.0, tenant="x")
    library.put("a", 1.0, tenant="y")
    first = reader.first(limit=1)
    assert [result.metadata["tenant"] for result in reader.next(first).results] == ["y"]


def test_several_chunks_of_a_document_are_on_one_page(reader: Reader, filled: Library) -> None:
    first = reader.first(limit=2, group_size=2)
    second = reader.next(first)
    assert [(result.doc_id, result.chunk) for result in first.results] == [
        ("doc 0", 0),
        ("doc 0", 1),
        ("doc 1", 0),
        ("doc 1", 1),
    ]
    assert ids(second) == ["doc 2", "doc 2", "doc 3", "doc 3"]


def test_a_vector_is_pinned(reader: Reader, filled: Library) -> None:
    first = reader.ask(vector=[0.0, 1.0], limit=2)
    assert ids(first) == ["doc 6", "doc 5"]
    assert ids(reader.next(first)) == ["doc 4", "doc 3"]
    assert reader.embedded == []


@pytest.mark.parametrize("mode", ["keyword", "hybrid"])
def test_searches_by_words_are_paged_too(mode: str) -> None:
    api = FakeMilvus(server=ServerInfo("v2.6.22", (2, 6, 22), lite=False))
    api.create_collection(
        documents_spec(COLLECTION, dimension=2, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=True)
    )
    library = Library(api)
    for number in range(20):
        library.put(f"doc {number}", (number * 37) % 90, text="q " + "x " * (number % 3))
    reader = Reader(api)
    answer = reader.first(limit=3, mode=mode)
    shown = ids(answer)
    while answer.next_cursor is not None:
        answer = reader.next(answer)
        shown += ids(answer)
    reader.service.close()
    assert sorted(shown) == sorted(f"doc {number}" for number in range(20))


def test_a_list_of_texts_has_no_cursor(reader: Reader, filled: Library) -> None:
    answer = asyncio.run(reader.service.answer({"query": ["q"], "limit": 2}))
    assert not hasattr(answer, "next_cursor")


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"cursor": "x"}, "/cursor"),
        ({"cursor": ""}, "/cursor"),
        ({"cursor": None}, "/cursor"),
        ({"cursor": 1}, "/cursor"),
        ({"cursor": "x" * 60_001}, "/cursor"),
        ({"cursor": "x", "query": "q"}, "/query"),
        ({"cursor": "x", "time": {"last": "1h"}}, "/time"),
        ({"cursor": "x", "limit": 0}, "/limit"),
        ({"cursor": "x", "limit": 101}, "/limit"),
        ({"cursor": "x", "limit": True}, "/limit"),
        ({"cursor": "x", "timeout_ms": 9}, "/timeout_ms"),
    ],
)
def test_a_request_with_a_cursor_holds_little_else(reader: Reader, body: dict[str, Any], at: str) -> None:
    assert reader.refusal(**body).at == at


def test_a_service_with_a_lower_limit_refuses_a_larger_request_at_the_cursor(
    make_reader: Callable[..., Reader], filled: Library
) -> None:
    first = make_reader().first(limit=5)
    refusal = make_reader(max_results=4).refusal(cursor=first.next_cursor)
    assert refusal.at == "/cursor"


def test_a_service_without_cursors_gives_and_takes_none(reader: Reader, filled: Library, milvus: FakeMilvus) -> None:
    service = SearchService(Searcher(milvus, COLLECTION), reader.service._embedder, QueryMetrics(CollectorRegistry()))
    with closing(service):
        answer = asyncio.run(service.answer({"query": "q", "limit": 1}))
        assert isinstance(answer, SearchAnswer)
        assert answer.next_cursor is None
        with pytest.raises(InvalidRequest, match="gives no cursors"):
            asyncio.run(service.answer({"cursor": reader.first(limit=1).next_cursor}))


def test_a_request_too_large_for_a_cursor_is_answered_with_a_warning(reader: Reader, filled: Library) -> None:
    noise = [
        "".join(chr(0x4E00 + (word * 577 + number * 7919) % 20_000) for number in range(40)) for word in range(900)
    ]
    answer = reader.first(limit=1, filter={"type": "nin", "key": "lang", "value": noise})
    assert (ids(answer), answer.next_cursor) == (["doc 0"], None)
    assert "too large for one" in answer.warnings[-1]
