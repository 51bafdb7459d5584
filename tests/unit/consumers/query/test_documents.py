"""Documents over HTTP: addresses of any id, problems, similar documents, limits."""

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
import structlog
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from consumers.query.app import create_app
from consumers.query.routes.documents import named_in
from pipeline.errors import Unavailable
from pipeline.query import InvalidRequest, Overloaded, SearchService
from pipeline.query.documents.service import DocumentService
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.documents import delete, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.asgi import send
from tests.support.rigs.documents import Documents
from tests.support.rigs.hostile import HOSTILE
from tests.support.stores import make_store

TEXT = "The refund failed twice on Monday, and nobody knows why."
OTHER = "It was sent again on Tuesday; this time the bank took it."


class Bench:
    """The application over documents that the real writer has written."""

    def __init__(self, *, append: bool = False) -> None:
        self.milvus = FakeMilvus()
        self.documents = Documents(make_store(self.milvus, "documents"), append=append)
        self.registry = CollectorRegistry()
        self.service = SearchService(self.documents.searcher, None, QueryMetrics(self.registry), concurrency=2)
        self.app: FastAPI = create_app(self.service, dict, registry=self.registry)

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return send(self.app, method, path, **options)

    def get(self, doc_id: str, below: str = "", **parameters: object) -> httpx.Response:
        address = f"/v1/documents/{quote(doc_id, safe='')}{below}"
        return self.call("GET", address, params={name: str(value) for name, value in parameters.items()})

    def similar(self, **body: object) -> httpx.Response:
        return self.call("POST", "/v1/similar", json=body)

    def count(self, metric: str, outcome: str) -> float:
        return self.registry.get_sample_value(metric, {"outcome": outcome}) or 0.0


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.service.close()


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["type"] == f"urn:milvus-stream:problem:{code}"
    return body


def test_a_document_has_exactly_the_documented_shape(bench: Bench) -> None:
    bench.documents.write(put("a", "One chunk.", 7, metadata={"lang": "en"}))
    response = bench.get("a")
    assert response.status_code == 200
    body = response.json()
    (chunk,) = body.pop("chunks")
    assert (chunk["chunk"], chunk["text"], len(chunk["id"])) == (0, "One chunk.", 40)
    assert body == {
        "doc_id": "a",
        "tenant": None,
        "mode": "upsert",
        "pending": False,
        "event_time": "2026-11-22T12:00:00Z",
        "version": None,
        "partition": "d20261122",
        "source": {"topic": "documents", "partition": 0, "offset": 7},
        "metadata": {"lang": "en"},
        "text": "One chunk.",
        "text_exact": True,
        "complete": True,
        "earlier": [],
        "warnings": [],
    }
    assert bench.count("query_documents_total", "ok") == 1


@pytest.mark.parametrize("doc_id", [*HOSTILE, "a/b/c", "a/history", "history", "/", "//", "a%2Fb", "x" * 1_024])
def test_an_address_may_name_any_id(bench: Bench, doc_id: str) -> None:
    bench.documents.write(put(doc_id, TEXT, 1), put("other", OTHER, 2))
    if doc_id not in (".", ".."):  # which the client itself takes out of an address
        assert bench.get(doc_id).json()["doc_id"] == doc_id
        assert bench.get(doc_id, "/history").json()["ledger"]["state"] == "live"
    assert named_in(f"/v1/documents/{quote(doc_id, safe='')}".encode()) == (doc_id, False)
    assert named_in(f"/v1/documents/{quote(doc_id, safe='')}/history".encode()) == (doc_id, True)
    found = bench.similar(doc_id=doc_id).json()
    assert [result["doc_id"] for result in found["results"]] == ["other"]


def test_a_slash_may_be_as_it_is(bench: Bench) -> None:
    bench.documents.write(put("a/b", TEXT, 1))
    assert bench.call("GET", "/v1/documents/a/b").json()["doc_id"] == "a/b"
    assert bench.call("GET", "/v1/documents/a/b/history").json()["doc_id"] == "a/b"
    assert named_in(b"/v1/documents/../x?tenant=a") == ("../x", False)


@pytest.mark.parametrize(
    ("address", "at"),
    [
        ("/v1/documents/%FF", "/doc_id"),
        ("/v1/documents/%ED%A0%80", "/doc_id"),
        ("/v1/documents/", "/doc_id"),
        ("/v1/documents//history", "/doc_id"),
        ("/v1/documents/" + "x" * 1_025, "/doc_id"),
        ("/v1/documents/" + "%C3%A9" * 513, "/doc_id"),
        ("/v1/documents/a?tenant=", "/tenant"),
        ("/v1/documents/a?tenant=%FF", ""),
        ("/v1/documents/a?tenant=a&tenant=b", ""),
        ("/v1/documents/a?doc_id=b", ""),
        ("/v1/documents/a?" + "&".join(f"x{number}=1" for number in range(99)), ""),
        ("/v1/documents/a?tennant=b", "/tennant"),
        ("/v1/documents/a?timeout_ms=soon", "/timeout_ms"),
        ("/v1/documents/a?timeout_ms=0", "/timeout_ms"),
        ("/v1/documents/a?timeout_ms=" + "9" * 5_000, "/timeout_ms"),
    ],
)
def test_bad_addresses(bench: Bench, address: str, at: str) -> None:
    assert problem(bench.call("GET", address), 422, "invalid-request")["at"] == at
    assert bench.milvus.calls[-1][0] != "query"


def test_a_prefix_that_is_encoded_otherwise_is_no_path(bench: Bench) -> None:
    bench.documents.write(put("a", TEXT, 1))
    assert bench.call("GET", "/v1/%64ocuments/a").json()["doc_id"] == "a"
    problem(bench.call("GET", "/v1%2Fdocuments/a"), 404, "not-found")
    problem(bench.call("DELETE", "/v1/documents/a"), 405, "method-not-allowed")


def test_documents_that_are_not_there(bench: Bench) -> None:
    bench.documents.write(put("a", TEXT, 1), delete("a", 2))
    body = problem(bench.get("a"), 404, "document-deleted")
    assert body["deleted_at"] in body["detail"]
    assert bench.get("a", "/history").json()["ledger"]["state"] == "deleted"
    for response in (
        bench.get("b"),
        bench.get("b", "/history"),
        bench.similar(doc_id="b"),
        bench.similar(chunk_id="b"),
    ):
        assert "deleted_at" not in problem(response, 404, "no-such-document")
    assert bench.count("query_documents_total", "not_found") == 3
    assert bench.count("query_requests_total", "invalid") == 2


def test_a_document_that_is_being_changed(bench: Bench) -> None:
    bench.documents.write(put("a", TEXT, 1))
    bench.documents.interrupt(put("a", OTHER, 2), after_upserts=2)
    for response in (bench.get("a", timeout_ms=300), bench.similar(doc_id="a", timeout_ms=300)):
        problem(response, 503, "changing")
        assert response.headers["retry-after"] == "1"
    assert bench.get("a", "/history").json()["ledger"]["pending"] is True
    bench.milvus.release_partitions("documents", ["d20261122"])
    bench.documents.searcher.forget()
    problem(bench.get("a"), 503, "not-loaded")


def test_a_failure_of_milvus_is_logged_without_the_id(bench: Bench) -> None:
    bench.documents.write(put("secret", TEXT, 1))
    bench.milvus.fail_next("query", Unavailable("Milvus at http://milvus.internal:19530 does not answer"))
    with structlog.testing.capture_logs() as lines:
        response = bench.get("secret")
    problem(response, 503, "unavailable")
    assert "milvus.internal" not in response.text
    assert lines[-1]["event"] == "search.failed"
    assert "milvus.internal" in lines[-1]["reason"]
    assert "secret" not in repr(lines)


def test_as_many_at_a_time_as_there_are_threads(bench: Bench) -> None:
    bench.documents.write(put("a", TEXT, 1))

    def full() -> None:
        raise Overloaded("2 searches are under way")

    service = DocumentService(bench.service)
    for call in (service.read({"doc_id": "a"}, admit=full), service.similar({"doc_id": "a"}, admit=full)):
        with pytest.raises(Overloaded):
            asyncio.run(call)
    assert bench.count("query_documents_total", "overloaded") == bench.count("query_requests_total", "overloaded") == 1


def test_a_read_that_milvus_does_not_answer_is_a_timeout(bench: Bench) -> None:
    bench.documents.write(put("a", TEXT, 1))
    bench.milvus.gate.clear()
    try:
        problem(bench.get("a", timeout_ms=50), 504, "timeout")
    finally:
        bench.milvus.gate.set()


# --- similar documents -------------------------------------------------------------------------------------------


def test_similar_documents_leave_the_document_itself_out(bench: Bench) -> None:
    bench.documents.write(put("a", TEXT, 1), put("b", TEXT, 2), put("c", OTHER, 3))
    body = bench.similar(doc_id="a").json()
    assert [result["doc_id"] for result in body["results"]] == ["b", "c"]
    assert (body["mode"], body["partial"]) == ("dense", False)
    assert bench.count("query_requests_total", "ok") == 1
    chunk = bench.get("a").json()["chunks"][1]
    body = bench.similar(chunk_id=chunk["id"], limit=1).json()
    assert [(result["doc_id"], result["text"]) for result in body["results"]] == [("b", chunk["text"])]
    assert body["results"][0]["score"] == pytest.approx(1.0, abs=1e-4)


def test_similar_documents_take_the_options_of_a_search(bench: Bench) -> None:
    bench.documents.write(
        put("a", TEXT, 1, metadata={"lang": "en"}),
        put("b", TEXT, 2, metadata={"lang": "de"}),
        put("c", TEXT, 3, day=3, metadata={"lang": "en"}),
        put("d", OTHER, 4, metadata={"lang": "en"}),
    )

    def ids(**body: object) -> list[str]:
        return [result["doc_id"] for result in bench.similar(doc_id="a", **body).json()["results"]]

    lang = {"type": "eq", "key": "lang", "value": "en"}
    assert ids(filter=lang) == ["c", "d"]
    assert ids(filter={"type": "or", "filters": [lang, {**lang, "value": "de"}]}, limit=3)[2] == "d"
    assert ids(time={"from": "2026-11-25"}) == ["c"]
    assert len(ids(group_by=None, limit=100)) > 3
    assert "a" not in ids(group_by=None, limit=100)
    best = bench.similar(doc_id="a", limit=1, fields=[]).json()["results"][0]
    assert best["metadata"] == {}
    assert ids(min_score=best["score"] + 1) == []


def test_the_same_id_of_another_tenant_is_another_document(bench: Bench) -> None:
    bench.documents.write(put("a", TEXT, 1, tenant="one"), put("a", TEXT, 2, tenant="two"), put("a", TEXT, 3))

    def tenants(**body: object) -> set[str | None]:
        return {result["metadata"].get("tenant") for result in bench.similar(doc_id="a", **body).json()["results"]}

    assert tenants() == {"one", "two"}
    assert tenants(tenant="one") == {"two", None}
    problem(bench.similar(doc_id="a", tenant="three"), 404, "no-such-document")


def test_a_caller_of_one_tenant_reads_no_other(bench: Bench) -> None:
    bench.documents.write(
        put("a", TEXT, 1, tenant="one"),
        put("b", TEXT, 2, tenant="two"),
        put("c", TEXT, 3),
        put("d", TEXT, 4, tenant="one"),
    )
    service = DocumentService(bench.service)
    chunk = bench.get("b").json()["chunks"][0]["id"]
    read = asyncio.run(service.read({"doc_id": "a"}, tenant="one"))
    assert (read.doc_id, read.tenant) == ("a", "one")
    found = asyncio.run(service.similar({"doc_id": "a", "group_by": None}, tenant="one")).results
    assert {result.doc_id for result in found} == {"d"}
    calls = (
        service.read({"doc_id": "b"}, tenant="one"),
        service.read({"doc_id": "b", "tenant": "two"}, tenant="one"),
        service.history({"doc_id": "b", "tenant": "two"}, tenant="one"),
        service.similar({"doc_id": "b"}, tenant="one"),
        service.similar({"doc_id": "b", "tenant": "two"}, tenant="one"),
        service.similar({"chunk_id": chunk}, tenant="one"),
        service.similar({"chunk_id": chunk, "tenant": "two"}, tenant="one"),
    )
    for call in calls:
        with pytest.raises(Exception, match=r"^no (document|chunk) with this id is stored$"):
            asyncio.run(call)


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({}, ""),
        ({"doc_id": "a", "chunk_id": "b"}, ""),
        ({"doc_id": ""}, "/doc_id"),
        ({"doc_id": 1}, "/doc_id"),
        ({"doc_id": "x" * 1_025}, "/doc_id"),
        ({"chunk_id": "x" * 65}, "/chunk_id"),
        ({"doc_id": "a", "limit": 1_001}, "/limit"),
        ({"doc_id": "a", "query": "q"}, "/query"),
        ({"doc_id": "a", "filter": {"type": "eq", "key": "][", "value": 1}}, "/filter/key"),
        ([], ""),
    ],
)
def test_bad_bodies(bench: Bench, body: object, at: str) -> None:
    response = bench.call("POST", "/v1/similar", json=body)
    assert problem(response, 422, "invalid-request")["at"] == at


def test_half_a_surrogate_pair_is_no_id(bench: Bench) -> None:
    for key in ("doc_id", "chunk_id", "tenant"):
        content = f'{{"doc_id": "a", "{key}": "\\ud800"}}'.replace('"doc_id": "a", "doc_id"', '"doc_id"')
        response = bench.call(
            "POST", "/v1/similar", content=content.encode(), headers={"content-type": "application/json"}
        )
        assert response.status_code == 422, response.text


def test_answers_match_the_published_schema(bench: Bench) -> None:
    bench.documents.write(put("a", TEXT, 1, metadata={"n": 1}), put("b", TEXT, 2))
    published = bench.call("GET", "/openapi.json").json()
    for path, method, response in (
        ("/v1/documents/{doc_id}", "get", bench.get("a")),
        ("/v1/documents/{doc_id}/history", "get", bench.get("a", "/history")),
        ("/v1/similar", "post", bench.similar(doc_id="a")),
    ):
        described = published["paths"][path][method]
        content = described["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator({**published, **content}).validate(response.json())
        assert {"404", "422", "429", "503", "504"} <= described["responses"].keys()
    parameters = published["paths"]["/v1/documents/{doc_id}"]["get"]["parameters"]
    assert [(each["name"], each["in"], each["required"]) for each in parameters] == [
        ("doc_id", "path", True),
        ("tenant", "query", False),
        ("timeout_ms", "query", False),
    ]
    request = published["paths"]["/v1/similar"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = jsonschema.Draft202012Validator({**published, **request})
    assert schema.is_valid({"doc_id": "a", "limit": 3})
    assert not schema.is_valid({"doc_id": "a", "query": "q"})


def test_versions_of_append_mode() -> None:
    bench = Bench(append=True)
    bench.documents.write(put("a", TEXT, 1), put("a", OTHER, 2), put("b", TEXT, 3))
    body = bench.get("a").json()
    assert (body["mode"], body["text"], body["earlier"][0]["text"]) == ("append", OTHER, TEXT)
    assert bench.get("a", "/history").json()["ledger"] is None
    assert [result["doc_id"] for result in bench.similar(doc_id="a").json()["results"]] == ["b"]
    bench.service.close()


def test_an_address_that_is_no_text_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        named_in(b"/v1/documents/%80")
