"""The HTTP application over a fake Milvus: answers, every error as problem JSON, limits, overload, metrics."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
import structlog
from fastapi import FastAPI
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from consumers.query.app import create_app
from consumers.wiring.query import readiness
from pipeline.errors import Mismatch, RateLimited, RequestRefused, RequestTooLarge, Unavailable, UsageError
from pipeline.query import QueryBatcher, Searcher, SearchService
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.log_text import LogText
from tests.support.rigs.asgi import client_of, send
from tests.support.rigs.search import COLLECTION, Library

JSON = {"content-type": "application/json"}


class Model:
    """Embeds every text to the east, `north` to the north."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.error: Exception | None = None
        self.free = threading.Event()
        self.free.set()

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(list(texts))
        assert self.free.wait(10)
        if self.error is not None:
            raise self.error
        return np.array([[0, 1] if text == "north" else [1, 0] for text in texts], np.float32)


class Bench:
    """One application with the parts around it."""

    def __init__(self, milvus: FakeMilvus, *, concurrency: int = 4, max_results: int = 1_000) -> None:
        self.milvus = milvus
        self.model = Model()
        self.batcher = QueryBatcher(self.model)
        self.registry = CollectorRegistry()
        self.problems: dict[str, str] = {}
        service = SearchService(
            Searcher(milvus, COLLECTION),
            self.batcher,
            QueryMetrics(self.registry),
            max_results=max_results,
            concurrency=concurrency,
        )
        self.app: FastAPI = create_app(service, lambda: self.problems, registry=self.registry)

    def client(self) -> httpx.AsyncClient:
        return client_of(self.app)

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return send(self.app, method, path, **options)

    def search(self, **body: object) -> httpx.Response:
        return self.call("POST", "/v1/search", json={"query": "q", **body})

    def outcome(self, name: str) -> float:
        return self.registry.get_sample_value("query_requests_total", {"outcome": name}) or 0.0


@pytest.fixture
def bench(milvus: FakeMilvus) -> Iterator[Bench]:
    made = Bench(milvus)
    yield made
    milvus.gate.set()
    made.batcher.close()


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:milvus-stream:problem:{code}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def test_the_answer_has_exactly_the_documented_shape(bench: Bench, library: Library) -> None:
    library.put("a", 0.0, offset=7, title="A")
    response = bench.search(time={"from": "2026-11-22"})
    assert response.status_code == 200
    body = response.json()
    assert set(body.pop("timing_ms")) == {"embed", "search", "total", "rerank"}
    assert body.pop("freshness") == {"event_time": None, "lag_s": None}
    assert body == {
        "results": [
            {
                "id": f"{1:064x}",
                "doc_id": "a",
                "text": "chunk 0 of a",
                "score": 1.0,
                "scores": {},
                "event_time": "2026-11-22T00:00:00Z",
                "chunk": 0,
                "partition": "d20261122",
                "source": {"topic": "topic", "partition": 0, "offset": 7},
                "metadata": {"title": "A"},
                "highlights": None,
                "passage": None,
                "relevance": None,
            }
        ],
        "facets": None,
        "next_cursor": None,
        "partial": False,
        "searched": {"partitions": 1, "skipped": 0, "reasons": {}},
        "warnings": [],
        "mode": "dense",
        "total": None,
        "explain": None,
    }


def test_a_list_is_answered_by_a_list(bench: Bench, library: Library) -> None:
    library.put("east", 0.0)
    library.put("north", 90.0)
    body = bench.search(query=["north", "q"], limit=1).json()
    assert [[result["doc_id"] for result in answer["results"]] for answer in body["answers"]] == [["north"], ["east"]]
    assert "results" not in body
    assert len(bench.search(query=["north"]).json()["answers"]) == 1


def test_answers_match_the_published_schema(bench: Bench, library: Library) -> None:
    library.put("a", 0.0, title="A")
    published = bench.call("GET", "/openapi.json").json()
    content = published["paths"]["/v1/search"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator({**published, **content})
    validator.validate(bench.search().json())
    validator.validate(bench.search(query=["q"]).json())
    everything = {"explain": True, "count": True, "time": {"from": "2026-11-23"}}
    validator.validate(bench.search(**everything).json())
    validator.validate(bench.search(query=["q"], **everything).json())
    assert not validator.is_valid({"results": []})
    models = ("SearchRequest", "CursorRequest")
    request = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in models]}
    assert published["paths"]["/v1/search"]["post"]["requestBody"]["content"]["application/json"]["schema"] == request
    errors = published["paths"]["/v1/search"]["post"]["responses"]
    assert {"400", "413", "415", "422", "429", "503", "504"} <= errors.keys()
    refusal = errors["422"]["content"]["application/problem+json"]["schema"]
    jsonschema.Draft202012Validator({**published, **refusal}).validate(bench.search(limit=0).json())


def test_the_published_schema_is_the_one_that_requests_are_checked_with(milvus: FakeMilvus, library: Library) -> None:
    bench = Bench(milvus, max_results=20)
    published = bench.call("GET", "/openapi.json").json()
    schema = jsonschema.Draft202012Validator({**published, "$ref": "#/components/schemas/SearchRequest"})
    one = {"type": "eq", "key": "lang", "value": "en"}
    bodies: list[tuple[dict[str, Any], int]] = [
        ({"query": "q", "limit": 20}, 200),
        ({"query": ["q", "r"], "time": {"last": "1h30m"}, "fields": ["title"], "group_by": None}, 200),
        ({"query": "q", "time": {"from": "2026-11-22", "to": "2026-11-23T00:00:00Z"}, "filter": one}, 200),
        ({"query": "q", "filter": {"type": "or", "filters": [one, {"type": "and", "filters": [one]}]}}, 200),
        ({"query": "q", "highlights": True, "facets": ["lang", "tags"]}, 200),
        ({"query": "q", "highlights": 1}, 422),
        ({"query": "q", "facets": []}, 422),
        ({"query": "q", "facets": list("abcdef")}, 422),
        ({"query": "q", "facets": ["$meta"]}, 422),
        ({"vector": [1, 0.5]}, 200),
        ({"vector": [[1, 0.5], [0, 1]], "explain": True, "count": True, "group_size": 2, "limit": 5}, 200),
        ({"query": "q", "vector": [0, -1], "params": {}}, 200),
        ({"query": "q", "limit": 21}, 422),
        ({"query": "q", "limit": "10"}, 422),
        ({"limit": 3}, 422),
        ({"query": "q", "vector": []}, 422),
        ({"query": "q", "vector": ["1"]}, 422),
        ({"query": "q", "vector": [[1], 1]}, 422),
        ({"query": "q", "params": {"ef": 0.5}}, 422),
        ({"query": "q", "params": {"$ef": 5}}, 422),
        ({"query": "q", "group_size": 11}, 422),
        ({"query": "q", "explain": "yes"}, 422),
        ({"query": "q", "timeout_ms": True}, 422),
        ({"query": []}, 422),
        ({"query": "q", "qurey": "q"}, 422),
        ({"query": "q", "time": {"since": "2026-11-22"}}, 422),
        ({"query": "q", "filter": {**one, "type": "like"}}, 422),
        ({"query": "q", "filter": {**one, "key": "a][b"}}, 422),
        ({"query": "q", "filter": {"type": "gt", "key": "a", "value": True}}, 422),
        ({"query": "q", "filter": {"type": "and", "filters": [{**one, "value": None}]}}, 422),
    ]
    try:
        for body, status in bodies:
            assert bench.call("POST", "/v1/search", json=body).status_code == status, body
            assert schema.is_valid(body) is (status == 200), body
    finally:
        bench.batcher.close()


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "malformed"),
        (b"", JSON, 400, "malformed"),
        (b'{"query": "\xff"}', JSON, 400, "malformed"),
        (b'{"query": NaN}', JSON, 400, "malformed"),
        (b'{"query": "a", "query": "b"}', JSON, 400, "malformed"),
        (b"[" * 60_000, JSON, 400, "malformed"),
        (b'{"limit": ' + b"9" * 5_000 + b"}", JSON, 400, "malformed"),
        (b'{"query": "' + b"x" * 65_536 + b'"}', JSON, 413, "body-too-large"),
        (b'{"query": "a"}', {"content-type": "text/plain"}, 415, "not-json"),
        (b"query=a", {"content-type": "application/x-www-form-urlencoded"}, 415, "not-json"),
        (b'{"query": "a"}', {}, 415, "not-json"),
        (b"[]", JSON, 422, "invalid-request"),
        (b'{"query": "a", "limit": 1e999}', JSON, 422, "invalid-request"),
        (b'{"query": "\\ud800"}', JSON, 422, "invalid-request"),
    ],
)
def test_bad_bodies(bench: Bench, content: bytes, headers: dict[str, str], status: int, code: str) -> None:
    response = bench.call("POST", "/v1/search", content=content, headers=headers)
    problem(response, status, code)


def test_a_body_with_vectors_may_be_large(bench: Bench, library: Library) -> None:
    library.put("east", 0.0)
    body = {"vector": [[0.123456789012345678 + index, -1.0] for index in range(32)], "limit": 1}
    padded = json.dumps(body).encode() + b" " * 900_000
    answered = bench.call("POST", "/v1/search", content=padded, headers=JSON)
    assert (answered.status_code, len(answered.json()["answers"])) == (200, 32)
    assert bench.model.batches == [], "nothing is embedded"
    problem(bench.call("POST", "/v1/search", content=padded + b" " * 200_000, headers=JSON), 413, "body-too-large")


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({"vector": [1, 2, 3]}, "/vector"),
        ({"vector": [0, 0]}, "/vector"),
        ({"vector": [1, 1e39]}, "/vector"),
        ({"vector": [1, "x"]}, "/vector/1"),
        ({"query": "q", "params": {"ef": 64}}, "/params/ef"),
        ({"query": "q", "group_size": 11}, "/group_size"),
        ({"limit": 3}, "/query"),
    ],
)
def test_wrong_options_are_422_with_a_pointer(bench: Bench, body: dict[str, object], at: str) -> None:
    response = bench.call("POST", "/v1/search", json=body)
    assert problem(response, 422, "invalid-request")["at"] == at


def test_an_answer_explains_itself_and_counts(bench: Bench, library: Library) -> None:
    library.put("a", 0.0, "2026-11-22")
    library.put("b", 0.0, "2026-11-21")
    body = bench.search(time={"from": "2026-11-22"}, explain=True, count=True).json()
    assert body["searched"] == {"partitions": 1, "skipped": 1, "reasons": {"outside_time_range": 1}}
    skipped = [{"name": "d20261121", "reason": "outside_time_range"}]
    assert body["explain"]["partitions"] == {"partitions": ["d20261122"], "skipped": skipped}
    assert body["explain"]["index"] == {"type": "FLAT", "metric": "COSINE"}
    assert body["explain"]["queries"][0]["results"][0]["orders"] == {"dense": {"rank": 1, "score": 1.0}}
    assert body["total"] == 1


def test_json_may_name_its_charset(bench: Bench) -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert bench.call("POST", "/v1/search", content=b'{"query": "a"}', headers=headers).status_code == 200


def test_a_refusal_says_where_and_keeps_the_value_to_itself(bench: Bench) -> None:
    body = problem(bench.search(filter={"type": "gt", "key": "chunk", "value": "secret"}), 422, "invalid-request")
    assert body["at"] == "/filter/value"
    assert "chunk" in body["detail"]
    assert "secret" not in json.dumps(body)
    assert bench.outcome("invalid") == 1


@pytest.mark.parametrize("name", ["][", "][x", 'a"][', "x]["])
def test_a_name_that_milvus_would_cut_never_leaves(bench: Bench, name: str) -> None:
    body = problem(bench.search(filter={"type": "eq", "key": name, "value": 1}), 422, "invalid-request")
    assert body["at"] == "/filter/key"
    assert [operation for operation, _, _ in bench.milvus.calls] == ["create_collection"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/search", 405, "method-not-allowed"),
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/docs", 404, "not-found"),
        ("GET", "/redoc", 404, "not-found"),
        ("DELETE", "/healthz", 405, "method-not-allowed"),
    ],
)
def test_routing_errors_are_problems(bench: Bench, method: str, path: str, status: int, code: str) -> None:
    response = bench.call(method, path)
    problem(response, status, code)
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize("path", ["/healthz", "/nothing", "/v1/search", "/metrics", "/openapi.json"])
def test_security_headers_are_everywhere(bench: Bench, path: str) -> None:
    headers = bench.call("GET", path, headers={"origin": "http://evil.example"}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"
    assert not [name for name in headers if name.startswith("access-control-")]


def test_milvus_down_is_503(bench: Bench) -> None:
    bench.milvus.down = True
    response = bench.search()
    assert "kept in Kafka" in problem(response, 503, "milvus-away")["detail"]
    assert bench.model.batches == [], "nothing is embedded for it"
    assert int(response.headers["retry-after"]) >= 1
    assert bench.outcome("unavailable") == 1


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RateLimited("the queue is full"), 429, "overloaded"),
        (Unavailable("closing"), 503, "unavailable"),
        (Mismatch("another model"), 503, "model-mismatch"),
        (ValueError("secret"), 500, "internal"),
    ],
)
def test_errors_of_the_model(bench: Bench, error: Exception, status: int, code: str) -> None:
    bench.model.error = error
    body = problem(bench.search(), status, code)
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize("error", [Unavailable, Mismatch, UsageError])
def test_where_milvus_is_stays_in_the_log(bench: Bench, error: type[Exception]) -> None:
    bench.model.error = error("Milvus at http://milvus.internal:19530 does not answer")
    with structlog.testing.capture_logs() as lines:
        response = bench.search()
    assert response.status_code == 503
    assert "milvus.internal" not in response.text
    assert lines[-1]["reason"] == "Milvus at http://milvus.internal:19530 does not answer"


def test_why_it_is_not_ready_stays_in_the_log_and_is_logged_once(milvus: FakeMilvus) -> None:
    ready = readiness(Searcher(milvus, COLLECTION))
    assert ready() == {}
    milvus.hook = away
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            assert "milvus.internal" not in ready()["milvus"]
    assert [line["why"] for line in lines] == ["Milvus at http://milvus.internal:19530 does not answer"]
    milvus.hook = None
    assert ready() == {}


def away(*_: str) -> None:
    raise Unavailable("Milvus at http://milvus.internal:19530 does not answer")


def test_a_search_that_takes_too_long_is_504_and_its_thread_still_counts(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    bench = Bench(milvus, concurrency=1)
    try:
        milvus.gate.clear()
        response = bench.search(timeout_ms=50)
        problem(response, 504, "timeout")
        assert bench.outcome("timeout") == 1
        problem(bench.search(timeout_ms=50), 504, "timeout")
        milvus.gate.set()
        assert bench.search().status_code == 200
    finally:
        milvus.gate.set()
        bench.batcher.close()


def test_more_searches_than_allowed_are_429(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    bench = Bench(milvus, concurrency=3)
    entered = threading.Semaphore(0)
    go_on = threading.Event()

    def wait(operation: str, collection: str, when: str) -> None:
        if operation == "list_partitions" and when == "before":
            entered.release()
            go_on.wait(10)

    milvus.hook = wait

    async def run() -> list[httpx.Response]:
        async with bench.client() as client:
            first = [asyncio.ensure_future(client.post("/v1/search", json={"query": "q"})) for _ in range(3)]
            await asyncio.to_thread(entered.acquire)
            refused = await asyncio.gather(*(client.post("/v1/search", json={"query": "q"}) for _ in range(5)))
            go_on.set()
            return [*refused, *await asyncio.gather(*first)]

    try:
        responses = asyncio.run(run())
    finally:
        bench.batcher.close()
    for response in responses[:5]:
        problem(response, 429, "overloaded")
        assert response.headers["retry-after"]
    assert [response.status_code for response in responses[5:]] == [200] * 3
    assert bench.outcome("overloaded") == 5
    assert bench.outcome("ok") == 3


def test_requests_that_arrive_while_the_model_works_are_embedded_together(bench: Bench, library: Library) -> None:
    library.put("a", 0.0)
    bench.model.free.clear()

    async def run() -> list[httpx.Response]:
        async with bench.client() as client:

            def ask(number: int) -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post("/v1/search", json={"query": f"q{number}"}))

            first = ask(0)
            while not bench.model.batches:
                await asyncio.sleep(0.001)
            others = [ask(number) for number in range(1, 4)]
            while bench.batcher._waiting < len(others):
                await asyncio.sleep(0.001)
            bench.model.free.set()
            return await asyncio.gather(first, *others)

    assert [response.status_code for response in asyncio.run(asyncio.wait_for(run(), 10))] == [200] * 4
    assert [sorted(batch) for batch in bench.model.batches] == [["q0"], ["q1", "q2", "q3"]]


def test_operations_routes(bench: Bench, library: Library) -> None:
    library.put("a", 0.0)
    assert bench.call("GET", "/healthz").json() == {"status": "ok", "problems": {}}
    assert bench.call("GET", "/readyz").json() == {"status": "ok", "problems": {}}
    bench.problems = {"milvus": "no collection"}
    response = bench.call("GET", "/readyz")
    assert (response.status_code, response.json()) == (503, {"status": "unavailable", "problems": bench.problems})
    bench.search()
    metrics = bench.call("GET", "/metrics")
    assert 'query_requests_total{outcome="ok"} 1.0' in metrics.text
    assert 'query_duration_seconds_count{phase="embed"} 1.0' in metrics.text
    assert "query_results_sum 1.0" in metrics.text


def test_one_log_line_without_the_query(bench: Bench, library: Library) -> None:
    library.put("a", 0.0)
    with structlog.testing.capture_logs() as lines:
        bench.search(query="my secret")
        bench.search(query="my secret", limit=0)
    assert [line["event"] for line in lines] == ["search.answered", "search.failed"]
    assert lines[0]["results"] == 1
    assert lines[1]["at"] == "/limit"
    assert "secret" not in json.dumps(lines)


@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (
            RequestRefused('Milvus: cannot parse expression: word == "secret"'),
            422,
            "refused",
            "filter",
        ),
        (RequestTooLarge("search: 90000000 vs 67108864"), 422, "too-large", "lower limit"),
        (UsageError("search: not permitted; check milvus.token"), 503, "misconfigured", "milvus.token"),
        (Unavailable("search: channel not available"), 503, "unavailable", "channel not available"),
        (KeyError("doc_id"), 500, "internal", "in the log"),
    ],
)
@pytest.mark.parametrize("style", ["json", "text"])
def test_a_failure_is_one_short_log_entry_with_its_reason(  # noqa: PLR0917 - the columns of the table
    bench: Bench, log_text: LogText, error: Exception, status: int, code: str, reason: str, style: str
) -> None:
    bench.milvus.fail_next("search", error)
    written = log_text(style)
    body = problem(
        bench.search(query=["secret"] * 32, filter={"type": "eq", "key": "word", "value": "secret"}), status, code
    )
    text = written.getvalue()
    assert text.count("search.failed") == 1
    assert reason in text
    assert (reason in body["detail"]) is (status != 503), "what is wrong with Milvus is no client's business"
    assert "secret" not in text + json.dumps(body)
    assert len(text) < (10_000 if status == 500 else 1_000)


def test_a_bug_is_answered_and_logged_once(bench: Bench) -> None:
    bench.problems = None  # type: ignore[assignment]
    with structlog.testing.capture_logs() as lines:
        problem(bench.call("GET", "/readyz"), 500, "internal")
    assert [line["event"] for line in lines] == ["http.failed"]
