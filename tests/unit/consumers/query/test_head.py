"""HEAD: every route that has GET answers it with the same status and headers, and without a body."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.page import keys
from tests.support.rigs.query_app import query_app, served
from tests.support.rigs.search import Library

VARYING = {"date", "content-length"}
"""An answer may have another time in it."""


def test_every_route_with_get_answers_head(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    with query_app(milvus, mcp=True) as made, served(made.app) as address:
        routes: list[Any] = [*made.app.routes]
        paths = {route.path for route in routes if "GET" in (route.methods or ())}
        assert {"/v1/documents/{doc_id:any_text}", "/v1/retrieve", "/openapi.json", "/healthz"} <= paths
        for path in paths:
            url = address + path.replace("{doc_id:any_text}", "a") + ("?query=q" if path == "/v1/retrieve" else "")
            with structlog.testing.capture_logs():
                got, head = httpx.get(url), httpx.head(url)
            assert (head.status_code, head.content) == (got.status_code, b""), url
            assert got.status_code == 200, url
            assert {name: value for name, value in head.headers.items() if name not in VARYING} == {
                name: value for name, value in got.headers.items() if name not in VARYING
            }


@pytest.mark.parametrize("path", ["/v1/search", "/v1/embeddings", "/mcp"])
def test_a_route_without_get_has_no_head(milvus: FakeMilvus, path: str) -> None:
    with query_app(milvus, mcp=True) as made, served(made.app) as address:
        answer = httpx.head(address + path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (405, "POST", b"")


def test_the_audit_log_names_method_and_route(milvus: FakeMilvus, library: Library, tmp_path: Path) -> None:
    library.put("a", 0.0)
    access, texts = keys(tmp_path / "keys.json")
    headers = {"authorization": f"Bearer {texts['reader']}"}
    with query_app(milvus, access=access) as made, structlog.testing.capture_logs() as lines:
        assert made.call("HEAD", "/v1/documents/a", headers=headers).status_code == 200
    (line,) = (line for line in lines if line["event"] == "query.audit")
    assert (line["method"], line["route"], line["results"]) == ("HEAD", "/v1/documents/{doc_id:any_text}", 1)
