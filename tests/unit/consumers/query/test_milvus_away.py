"""Milvus is away: every way in answers 503 at once in the same words, and goes on when it is back."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pipeline.errors import MilvusAway, MilvusStreamError, NotLoaded, Unavailable
from pipeline.query import FreshnessWatch, Searcher
from tests.support.fakes.milvus import FakeMilvus
from tests.support.fakes.offsets import FakeOffsets
from tests.support.rigs.query_app import QueryApp, query_app
from tests.support.rigs.search import COLLECTION, EAST, Clock, Library, find

Sent = tuple[str, str, dict[str, object] | None]
ROUTES: list[Sent] = [
    ("POST", "/v1/search", {"query": "q"}),
    ("POST", "/v1/search", {"query": "q", "count": True, "facets": ["lang"], "mode": "dense"}),
    ("POST", "/v1/search", {"vector": [1, 0]}),
    ("POST", "/v1/similar", {"doc_id": "a"}),
    ("GET", "/v1/documents/a", None),
    ("GET", "/v1/documents/a/history", None),
    ("POST", "/v1/retrieve", {"query": "q"}),
    ("GET", "/v1/retrieve?query=q", None),
    ("POST", "/v1/statistics", {}),
    ("GET", "/v1/statistics", None),
    ("POST", "/v1/inputs", {}),
    ("GET", "/v1/inputs", None),
]
STORE = "/v1/vector_stores/documents/search"


def call(app: QueryApp, method: str, path: str, body: dict[str, object] | None) -> httpx.Response:
    return app.call(method, path, **({} if body is None else {"json": body}))


def is_away(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["type"]) == (503, "urn:milvus-stream:problem:milvus-away"), response.text
    assert int(response.headers["retry-after"]) >= 1
    assert "kept in Kafka" in body["detail"]
    assert "timeout_ms" not in body["detail"]
    return body


@pytest.mark.parametrize("request_", ROUTES, ids=str)
def test_known_to_be_away_it_is_not_called(app: QueryApp, milvus: FakeMilvus, library: Library, request_: Sent) -> None:
    library.put("a", 0.0)
    milvus.down = True
    before = len(milvus.calls)
    assert is_away(call(app, *request_))["away_s"] == 0.0
    assert len(milvus.calls) == before
    milvus.down = False
    assert call(app, *request_).status_code == 200


@pytest.mark.parametrize("request_", ROUTES, ids=str)
def test_found_out_by_the_request_itself(app: QueryApp, milvus: FakeMilvus, library: Library, request_: Sent) -> None:
    library.put("a", 0.0)

    def away(operation: str, collection: str, when: str) -> None:
        raise MilvusAway(f"{operation}: Milvus at http://milvus.internal:19530 is away", 3.21)

    milvus.hook = away
    response = call(app, *request_)
    assert is_away(response)["away_s"] == 3.2
    assert "milvus.internal" not in response.text
    milvus.hook = None
    assert call(app, *request_).status_code == 200


def test_openai_clients_read_it_in_their_shape(app: QueryApp, milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    milvus.down = True
    response = app.post(STORE, query="q")
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (503, "server_error", "milvus_away")
    assert "kept in Kafka" in error["message"]
    assert int(response.headers["retry-after"]) >= 1
    milvus.down = False
    assert app.post(STORE, query="q").status_code == 200


def test_texts_are_embedded_all_the_same(app: QueryApp, milvus: FakeMilvus) -> None:
    milvus.down = True
    assert app.post("/v1/embeddings", input="a").status_code == 200


def test_a_wrong_request_is_refused_whether_milvus_is_there_or_not(app: QueryApp, milvus: FakeMilvus) -> None:
    milvus.down = True
    assert app.post("/v1/search", query="q", limit=0).status_code == 422
    assert app.post("/v1/similar").status_code == 422


def test_a_request_that_waits_for_milvus_takes_no_place_of_another(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    with query_app(milvus, concurrency=1) as app:
        milvus.down = True

        async def many() -> list[httpx.Response]:
            async with app.client() as client:
                return await asyncio.gather(*(client.post("/v1/search", json={"query": "q"}) for _ in range(20)))

        assert {response.status_code for response in asyncio.run(many())} == {503}


def test_freshness_does_not_wait_for_a_read_that_hangs(milvus: FakeMilvus) -> None:
    watch = FreshnessWatch(milvus, COLLECTION, FakeOffsets(partitions=1))

    async def run() -> None:
        milvus.gate.clear()
        hanging = asyncio.create_task(watch.report())
        await asyncio.sleep(0)
        milvus.down = True
        with pytest.raises(MilvusAway):
            await watch.report()
        milvus.gate.set()
        with pytest.raises(MilvusAway):
            await hanging

    try:
        asyncio.run(run())
    finally:
        milvus.gate.set()
        watch.close()


@pytest.mark.parametrize(
    ("refusal", "answer"),
    [
        (None, "504 timeout"),
        (NotLoaded("search: the collection is not loaded"), "503 not-loaded"),
        (Unavailable("query: Milvus at http://milvus.internal:19530 is not ready"), "503 unavailable"),
        (MilvusAway("away"), "503 milvus-away"),
    ],
)
def test_time_that_ran_out_while_milvus_could_not_serve_is_no_timeout(
    app: QueryApp, milvus: FakeMilvus, library: Library, refusal: MilvusStreamError | None, answer: str
) -> None:
    library.put("a", 0.0)
    milvus.refusal = refusal
    milvus.gate.clear()
    try:
        requests: list[Sent] = [
            ("POST", "/v1/search", {"query": "q", "timeout_ms": 50}),
            ("POST", "/v1/similar", {"doc_id": "a", "timeout_ms": 50}),
            ("GET", "/v1/documents/a?timeout_ms=50", None),
        ]
        for request in requests:
            response = call(app, *request)
            assert f"{response.status_code} {response.json()['type'].rpartition(':')[2]}" == answer
            assert "milvus.internal" not in response.text
    finally:
        milvus.gate.set()


def test_the_deadline_of_a_request_hides_no_outage(
    make_searcher: Callable[..., Searcher], milvus: FakeMilvus, library: Library, clock: Clock
) -> None:
    library.put("a", 0.0)

    def late(operation: str, collection: str, when: str) -> None:
        if operation == "search" and when == "before":
            clock.now += 10.0
            raise MilvusAway("away")

    milvus.hook = late
    with pytest.raises(MilvusAway):
        find(make_searcher(), EAST, timeout_s=5.0)


def test_a_collection_that_is_not_loaded_again_is_no_question_of_time(
    app: QueryApp, make_searcher: Callable[..., Searcher], milvus: FakeMilvus, library: Library, clock: Clock
) -> None:
    library.put("a", 0.0)

    def loading(operation: str, collection: str, when: str) -> None:
        if operation == "search" and when == "before":
            clock.now += 10.0
            raise NotLoaded("search: the collection is not loaded")

    milvus.hook = loading
    with pytest.raises(NotLoaded):
        find(make_searcher(), EAST, timeout_s=5.0)
    response = app.post("/v1/search", query="q")
    assert (response.status_code, response.json()["type"]) == (503, "urn:milvus-stream:problem:not-loaded")
