"""Pages over HTTP: cursors from one query worker to another, their errors, and the published schema."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from consumers.config import Settings, load_settings, masked_values
from consumers.query.app import create_app
from consumers.wiring.searches import cursors, search_service
from pipeline.errors import UsageError
from pipeline.query import DirectEmbedder, Searcher
from pipeline.telemetry import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, Library

KEY = "k" * 16


def configured(**options: str) -> Settings:
    return load_settings(None, {}, [f"query.{name}={value}" for name, value in options.items()])


def east(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array([[1, 0]] * len(texts), np.float32)


@contextmanager
def worker(milvus: FakeMilvus, settings: Settings) -> Iterator[TestClient]:
    registry = CollectorRegistry()
    service = search_service(
        settings, Searcher(milvus, COLLECTION), DirectEmbedder(east), QueryMetrics(registry), cursors=cursors(settings)
    )
    app: FastAPI = create_app(service, dict, registry=registry)
    with TestClient(app) as client:
        yield client


@pytest.fixture
def filled(library: Library) -> Library:
    for number in range(5):
        library.put(f"doc {number}", float(number), lang="en")
    return library


def search(client: TestClient, **body: Any) -> dict[str, Any]:
    # JSON as httpx writes it has no halves of surrogate pairs.
    response = client.post("/v1/search", content=json.dumps(body), headers={"content-type": "application/json"})
    answer: dict[str, Any] = response.json()
    return {**answer, "status": response.status_code}


def ids(answer: dict[str, Any]) -> list[str]:
    return [result["doc_id"] for result in answer["results"]]


def test_workers_with_one_key_take_each_others_cursors(milvus: FakeMilvus, filled: Library) -> None:
    with ExitStack() as stack:
        one, other, alone = (
            stack.enter_context(worker(milvus, settings))
            for settings in (configured(cursor_key=KEY), configured(cursor_key=KEY), configured())
        )
        first = search(one, query="q", limit=2)
        assert ids(search(other, cursor=first["next_cursor"])) == ["doc 2", "doc 3"]
        refusal = search(alone, cursor=first["next_cursor"])
        assert (refusal["status"], refusal["at"]) == (422, "/cursor")
        assert "query.cursor_key" in refusal["detail"]
        own = search(alone, query="q", limit=2)
        assert ids(search(alone, cursor=own["next_cursor"])) == ["doc 2", "doc 3"]
        assert search(one, cursor=own["next_cursor"])["status"] == 422


@pytest.mark.parametrize("cursor", ["", "x", None, 1, [], "A" * 1_000, "\ud800"])
def test_no_cursor_ends_in_an_internal_error(milvus: FakeMilvus, filled: Library, cursor: object) -> None:
    with worker(milvus, configured()) as client:
        refusal = search(client, cursor=cursor)
        assert (refusal["status"], refusal["at"]) == (422, "/cursor")


def test_the_published_schema_has_both_requests(milvus: FakeMilvus, filled: Library) -> None:
    with worker(milvus, configured(max_limit="20")) as client:
        published = client.get("/openapi.json").json()
        body = published["paths"]["/v1/search"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        schema = jsonschema.Draft202012Validator({**published, **body})
        answered = published["paths"]["/v1/search"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        answers = jsonschema.Draft202012Validator({**published, **answered})
        first = search(client, query="q", limit=2, facets=["lang"], highlights=True)
        answers.validate({name: value for name, value in first.items() if name != "status"})
        cursor = first["next_cursor"]
        bodies: list[tuple[dict[str, Any], int]] = [
            ({"cursor": cursor}, 200),
            ({"cursor": cursor, "limit": 20, "timeout_ms": None}, 200),
            ({"cursor": cursor, "limit": 21}, 422),
            ({"cursor": cursor, "query": "q"}, 422),
            ({"cursor": 1}, 422),
        ]
        for request, status in bodies:
            assert search(client, **request)["status"] == status, request
            assert schema.is_valid(request) is (status == 200), request


def test_the_key_is_a_secret_of_some_length() -> None:
    with pytest.raises(UsageError, match=r"query\.cursor_key: needs at least 16") as refusal:
        configured(cursor_key="hunter2")
    assert "hunter2" not in str(refusal.value)
    assert KEY not in repr(configured(cursor_key=KEY))
    assert masked_values(configured(cursor_key=KEY))["query"]["cursor_key"] == "********"
