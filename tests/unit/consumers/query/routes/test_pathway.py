"""Pathway's three routes: what its clients send and read."""

from typing import Any

import httpx
import pytest
import structlog

from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.query_app import QueryApp
from tests.support.rigs.search import Library

DAY = 1_795_305_600
"""2026-11-22 in epoch seconds."""


def problem(response: httpx.Response, at: str) -> str:
    assert response.status_code == 422, response.text
    body: dict[str, Any] = response.json()
    assert body["at"] == at
    return str(body["detail"])


def test_retrieve_gives_texts_with_metadata_and_distance(app: QueryApp, library: Library) -> None:
    library.put("a", 0.0, path="docs/a.md", lang="en")
    library.put("b", 90.0, path="docs/b.md", lang="en")
    library.put("c", 0.0, path="wiki/c.md", lang="de")
    scores = {one["doc_id"]: one["score"] for one in app.post("/v1/search", query="q").json()["results"]}
    found = app.post("/v1/retrieve", query="q", k=5).json()
    assert [one["dist"] for one in found] == sorted(one["dist"] for one in found)
    a = next(one for one in found if one["text"] == "chunk 0 of a")
    assert a["metadata"] == {"path": "docs/a.md", "lang": "en", "modified_at": DAY}
    assert a["dist"] == pytest.approx(1 - scores["a"])
    assert len(app.post("/v1/retrieve", query="q", k=2).json()) == 2
    assert len(app.post("/v1/retrieve", query="q").json()) == 3


def test_retrieve_takes_both_filters_by_get_and_post(app: QueryApp, library: Library) -> None:
    library.put("a", 0.0, path="docs/a.md", lang="en")
    library.put("b", 0.0, path="docs/b.md", lang="de")
    library.put("c", 0.0, path="wiki/c.md", lang="en")
    body = {"query": "q", "k": 5, "metadata_filter": "lang == 'en'", "filepath_globpattern": "docs/**"}
    for response in (app.post("/v1/retrieve", **body), app.call("GET", "/v1/retrieve", params=body)):
        assert [one["metadata"]["path"] for one in response.json()] == ["docs/a.md"]
    nulls = {"metadata_filter": None, "filepath_globpattern": None}
    assert len(app.post("/v1/retrieve", query="q", k=5, **nulls).json()) == 3


def test_modified_at_is_the_event_time(app: QueryApp, library: Library) -> None:
    library.put("old", 0.0, "2026-11-21")
    library.put("new", 0.0, "2026-11-22")
    (found,) = app.post("/v1/retrieve", query="q", metadata_filter=f"modified_at >= `{DAY}`").json()
    assert found["text"] == "chunk 0 of new"


def test_statistics_count_documents_and_find_the_newest_time(app: QueryApp, library: Library) -> None:
    assert app.post("/v1/statistics").json() == {"file_count": 0, "last_modified": None, "last_indexed": None}
    library.put("a", 0.0, "2026-11-20")
    library.put("a", 0.0, "2026-11-20", chunk=1)
    library.put("b", 0.0, "2026-11-22")
    expected = {"file_count": 2, "last_modified": DAY, "last_indexed": None}
    assert app.post("/v1/statistics").json() == expected
    assert app.call("GET", "/v1/statistics").json() == expected


def test_inputs_lists_the_metadata_of_documents(app: QueryApp, library: Library) -> None:
    library.put("b", 0.0, path="docs/b.md", n=1)
    library.put("a", 0.0, "2026-11-21", path="docs/a.md")
    library.put("a", 0.0, "2026-11-22", path="docs/a.md", offset=2)
    library.put("a", 0.0, "2026-11-22", path="docs/a.md", chunk=1)
    a, b = (
        {"path": "docs/a.md", "doc_id": "a", "modified_at": DAY},
        {"path": "docs/b.md", "n": 1, "doc_id": "b", "modified_at": DAY},
    )
    assert app.post("/v1/inputs", metadata_filter=None, filepath_globpattern=None).json() == [a, b]
    assert app.post("/v1/inputs", metadata_filter="n == `1`").json() == [b]
    assert app.call("GET", "/v1/inputs", params={"filepath_globpattern": "docs/a.md"}).json() == [a]


def test_too_many_inputs_are_refused_with_their_number(app: QueryApp, library: Library) -> None:
    for number in range(1_001):
        library.put(f"d{number}", 0.0)
    assert "1,001" in problem(app.post("/v1/inputs"), "/metadata_filter")


@pytest.mark.parametrize(
    ("body", "at"),
    [
        ({}, "/query"),
        ({"query": ["a"]}, "/query"),
        ({"query": " "}, "/query"),
        ({"query": "q", "k": 0}, "/k"),
        ({"query": "q", "k": 1_001}, "/k"),
        ({"query": "q", "k": "3"}, "/k"),
        ({"query": "q", "limit": 3}, "/limit"),
        ({"query": "q", "metadata_filter": 7}, "/metadata_filter"),
        ({"query": "q", "metadata_filter": "lang"}, "/metadata_filter"),
        ({"query": "q", "metadata_filter": "a == `null`"}, "/metadata_filter"),
        ({"query": "q", "metadata_filter": "chunk == 'x'"}, "/metadata_filter"),
        ({"query": "q", "filepath_globpattern": "*.md"}, "/filepath_globpattern"),
    ],
)
def test_what_retrieve_refuses(app: QueryApp, library: Library, body: dict[str, Any], at: str) -> None:
    library.put("a", 0.0)
    problem(app.post("/v1/retrieve", **body), at)


@pytest.mark.parametrize("parameters", ["query=q&k=x", "query=q&k=-1", "query=q&k=99999999999999999999"])
def test_numbers_of_a_get_are_checked(app: QueryApp, parameters: str) -> None:
    problem(app.call("GET", f"/v1/retrieve?{parameters}"), "/k")


def test_a_parameter_that_is_given_twice_is_refused(app: QueryApp) -> None:
    problem(app.call("GET", "/v1/retrieve?query=a&query=b"), "")


@pytest.mark.parametrize("path", ["/v1/retrieve", "/v1/statistics", "/v1/inputs"])
def test_an_outage_is_503_and_its_reason_stays_in_the_log(app: QueryApp, milvus: FakeMilvus, path: str) -> None:
    milvus.down = True
    with structlog.testing.capture_logs() as lines:
        response = app.post(path, query="q") if path == "/v1/retrieve" else app.post(path)
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert len(lines) == 1
    assert lines[0]["reason"]


def test_bodies_are_checked_as_elsewhere(app: QueryApp) -> None:
    for path in ("/v1/retrieve", "/v1/statistics", "/v1/inputs"):
        assert app.call("POST", path, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
        assert app.call("POST", path, content=b"[]", headers={"content-type": "application/json"}).status_code == 422
        assert app.call("DELETE", path).status_code == 405
