"""`POST /v1/vector_stores/{name}/search`: the same searches as `/v1/search`, in OpenAI's shape, and its errors."""

import asyncio
import json
import threading
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest

from pipeline.errors import Unavailable
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.query_app import QueryApp, query_app
from tests.support.rigs.search import Library

PATH = "/v1/vector_stores/documents/search"


def error(response: httpx.Response, status: int, param: str | None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["param"] == param
    return body["error"]  # type: ignore[no-any-return]


def ids(response: httpx.Response) -> list[str]:
    return [one["file_id"] for one in response.json()["data"]]


def test_a_page_has_the_results_of_the_search(app: QueryApp, library: Library) -> None:
    library.put("a", 0.0, title="A", n=2, tags=["x", {"y": 1}], gone=None, ok=True)
    found = app.post("/v1/search", query="q").json()["results"][0]
    assert app.post(PATH, query="q").json() == {
        "object": "vector_store.search_results.page",
        "search_query": ["q"],
        "data": [
            {
                "file_id": "a",
                "filename": "a",
                "score": found["score"],
                "attributes": {
                    "title": "A",
                    "n": 2,
                    "tags": '["x",{"y":1}]',
                    "ok": True,
                    "event_time": "2026-11-22T00:00:00Z",
                },
                "content": [{"type": "text", "text": "chunk 0 of a"}],
            }
        ],
        "has_more": False,
        "next_page": None,
    }


def test_the_file_name_is_the_one_of_the_metadata(app: QueryApp, library: Library) -> None:
    library.put("a", 0.0, filename="report.pdf")
    library.put("b", 0.0, filename=7)
    names = {one["file_id"]: one["filename"] for one in app.post(PATH, query="q").json()["data"]}
    assert names == {"a": "report.pdf", "b": "b"}


def test_the_results_of_several_texts_are_merged(app: QueryApp, library: Library) -> None:
    for number in range(6):
        library.put(f"d{number}", number * 60.0)
    texts = ["one", "two", "three"]
    separate = [app.post("/v1/search", query=text, limit=4).json()["results"] for text in texts]
    best: dict[str, float] = {}
    for result in (result for results in separate for result in results):
        best[result["doc_id"]] = max(result["score"], best.get(result["doc_id"], -2.0))
    page = app.post(PATH, query=texts, max_num_results=4).json()
    assert page["search_query"] == texts
    expected = sorted(best.items(), key=lambda pair: -pair[1])[:4]
    assert [(one["file_id"], one["score"]) for one in page["data"]] == [
        (name, pytest.approx(s)) for name, s in expected
    ]


def test_documents_of_two_tenants_with_one_id_stay_two(app: QueryApp, library: Library) -> None:
    library.put("a", 0.0, tenant="x")
    library.put("a", 0.0, tenant="y")
    assert sorted(one["attributes"]["tenant"] for one in app.post(PATH, query=["q", "r"]).json()["data"]) == ["x", "y"]


def test_filters_threshold_and_number_are_those_of_the_search(app: QueryApp, library: Library) -> None:
    for number in range(5):
        library.put(f"d{number}", number * 90.0, n=number, lang="en" if number % 2 else "de")
    compound = {
        "type": "and",
        "filters": [{"type": "eq", "key": "lang", "value": "en"}, {"type": "gte", "key": "n", "value": 2}],
    }
    assert ids(app.post(PATH, query="q", filters=compound)) == ["d3"]
    assert sorted(ids(app.post(PATH, query="q", filters={"type": "nin", "key": "n", "value": [0, 1, 2]}))) == [
        "d3",
        "d4",
    ]
    assert len(ids(app.post(PATH, query="q", max_num_results=2))) == 2
    scores = [one["score"] for one in app.post(PATH, query="q").json()["data"]]
    cut = scores[1]
    kept = app.post(PATH, query="q", ranking_options={"ranker": "auto", "score_threshold": cut}).json()["data"]
    assert [one["score"] for one in kept] == [score for score in scores if score >= cut]
    assert len(kept) < len(scores)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "query", "missing"),
        ({"query": 1}, "query", "text"),
        ({"query": ""}, "query", "at least one character"),
        ({"query": "q", "max_num_results": 0}, "max_num_results", "1"),
        ({"query": "q", "max_num_results": 51}, "max_num_results", "50"),
        ({"query": "q", "rewrite_query": True}, "rewrite_query", "must be false"),
        ({"query": "q", "filters": 1}, "filters", "object"),
        ({"query": "q", "filters": {"type": "like", "key": "a", "value": "b"}}, "filters.type", "eq"),
        (
            {"query": "q", "filters": {"type": "and", "filters": [{"type": "gt", "key": "a", "value": True}]}},
            "filters.filters[0].value",
            "number",
        ),
        ({"query": "q", "ranking_options": {"score_threshold": "x"}}, "ranking_options.score_threshold", "finite"),
        ({"query": "q", "ranking_options": {"ranker": "mine"}}, "ranking_options.ranker", "auto"),
        ({"query": "q", "ranking_options": {"rank": 1}}, "ranking_options.rank", "known are ranker"),
        (
            {"query": "q", "ranking_options": {"hybrid_search": {"embedding_weight": -1, "text_weight": 1}}},
            "ranking_options.hybrid_search.embedding_weight",
            "must be 0",
        ),
        (
            {"query": "q", "ranking_options": {"hybrid_search": {"embedding_weight": 1, "text_weight": 1}}},
            "ranking_options.hybrid_search",
            "keyword index",
        ),
        ({"query": "q", "limit": 3}, "limit", "known are query"),
    ],
)
def test_what_is_refused(app: QueryApp, library: Library, body: dict[str, object], param: str, words: str) -> None:
    library.put("a", 0.0)
    refused = error(app.post(PATH, **body), 400, param)
    assert words in refused["message"]
    assert refused["type"] == "invalid_request_error"


def test_another_store_is_not_found_and_the_name_of_ours_not_given_away(app: QueryApp) -> None:
    refused = error(app.post("/v1/vector_stores/vs_abc/search", query="q"), 404, None)
    assert refused["code"] == "not_found"
    assert "documents" not in refused["message"]


@pytest.mark.parametrize("name", ["documents%2F..", "%00", "documents%20"])
def test_hostile_names_are_not_found(app: QueryApp, name: str) -> None:
    assert app.call("POST", f"/v1/vector_stores/{name}/search", json={"query": "q"}).status_code == 404


def test_errors_of_milvus_have_the_shape_too(app: QueryApp, milvus: FakeMilvus) -> None:
    milvus.fail_next("search", Unavailable("Milvus at http://milvus.internal:19530 is away"))
    milvus.fail_next("list_partitions", Unavailable("Milvus at http://milvus.internal:19530 is away"))
    response = app.post(PATH, query="q")
    refused = error(response, 503, None)
    assert refused["type"] == "server_error"
    assert response.headers["retry-after"]
    assert "milvus.internal" not in response.text
    assert app.outcome("unavailable") == 1


def test_a_body_that_is_no_json(app: QueryApp) -> None:
    error(app.call("POST", PATH, content=b"{", headers={"content-type": "application/json"}), 400, None)
    error(app.call("POST", PATH, content=b"{}", headers={"content-type": "text/plain"}), 415, None)


def test_searches_hold_places_as_others_do(milvus: FakeMilvus) -> None:
    listed, free = threading.Event(), threading.Event()

    def wait(operation: str, collection: str, when: str) -> None:
        if operation == "list_partitions" and when == "before":
            listed.set()
            assert free.wait(10)

    milvus.hook = wait

    async def run(busy: QueryApp) -> list[httpx.Response]:
        async with busy.client() as client:
            first = asyncio.ensure_future(client.post(PATH, json={"query": "q"}))
            await asyncio.to_thread(listed.wait)
            refused = await client.post(PATH, json={"query": "q"})
            free.set()
            return [refused, await first, await client.post(PATH, json={"query": "q"})]

    with query_app(milvus, concurrency=1) as busy:
        refused, first, later = asyncio.run(run(busy))
    assert error(refused, 429, None)["type"] == "rate_limit_error"
    assert [first.status_code, later.status_code] == [200, 200]


def test_answers_match_the_published_schema(app: QueryApp, library: Library) -> None:
    library.put("a", 0.0, n=1, f=0.5, t="x", b=True, tags=["x"])
    published = app.call("GET", "/openapi.json").json()
    route = published["paths"]["/v1/vector_stores/{vector_store_id}/search"]["post"]
    answer = route["responses"]["200"]["content"]["application/json"]["schema"]
    page = app.post(PATH, query="q").json()
    jsonschema.Draft202012Validator({**published, **answer}).validate(page)
    assert len(page["data"]) == 1
    body = route["requestBody"]["content"]["application/json"]["schema"]
    schema = jsonschema.Draft202012Validator({**published, **body})
    assert schema.is_valid({"query": ["q"], "filters": {"type": "eq", "key": "a", "value": 1}})
    assert not schema.is_valid({"query": 7})
    assert json.dumps(published)
