"""`/mcp` of the query worker, on a socket, with the client of the official SDK."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from mcp import Client
from mcp_types import CallToolResult, TextContent, Tool

from pipeline.errors import Unavailable
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.query_app import query_app, served
from tests.support.rigs.search import Library

HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


def initialize(version: str = "2025-06-18") -> dict[str, Any]:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}


@pytest.fixture
def address(milvus: FakeMilvus) -> Iterator[str]:
    with query_app(milvus, mcp=True) as made, served(made.app) as opened:
        yield opened


def called(address: str, name: str, **arguments: Any) -> CallToolResult:
    async def run() -> CallToolResult:
        async with Client(f"{address}/mcp") as client:
            return await client.call_tool(name, arguments)

    return asyncio.run(asyncio.wait_for(run(), 30))


def text(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def test_the_tools_are_read_only_and_have_schemas(address: str) -> None:
    async def run() -> list[Tool]:
        async with Client(f"{address}/mcp") as client:
            return (await client.list_tools()).tools

    tools = asyncio.run(asyncio.wait_for(run(), 30))
    assert {tool.name for tool in tools} == {"search", "describe", "fetch"}
    for tool in tools:
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.annotations.destructive_hint is False
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None


def test_a_search_is_answered_with_structured_content_and_the_same_as_text(address: str, library: Library) -> None:
    library.put("a", 0.0, title="<b>A</b>")
    result = called(address, "search", query="q", limit=3)
    assert not result.is_error
    assert [one["id"] for one in result.structured_content["results"]] == ["a"]
    assert json.loads(text(result)) == result.structured_content
    assert called(address, "describe").structured_content["collection"] == "documents"
    assert called(address, "fetch", id="a").structured_content["text"] == "chunk 0 of a"
    assert "No such document" in text(called(address, "fetch", id="b"))


def test_what_is_wrong_is_said_to_the_model(address: str, milvus: FakeMilvus) -> None:
    refused = called(address, "search", query="q", limit=99)
    assert refused.is_error
    assert "/limit" in text(refused)
    with structlog.testing.capture_logs() as lines:
        milvus.fail_next("list_partitions", Unavailable("Milvus at http://milvus.internal:19530 is away"))
        away = called(address, "search", query="my secret")
    assert away.is_error
    assert "Try again later" in text(away)
    assert "milvus.internal" not in text(away)
    assert "mcp.call_failed" in [line["event"] for line in lines]
    assert "my secret" not in json.dumps(lines)


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_a_client_of_an_older_protocol_is_answered_without_a_session(address: str, version: str) -> None:
    response = httpx.post(f"{address}/mcp", json=initialize(version), headers=HEADERS)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert "mcp-session-id" not in response.headers
    assert response.json()["result"]["protocolVersion"] == version
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_other_methods_are_refused_at_once(address: str, method: str) -> None:
    response = httpx.request(method, f"{address}/mcp", headers={"accept": "text/event-stream"}, timeout=5)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 403),
        ({"content-type": "text/plain"}, 400),
        ({"host": "evil.example"}, 421),
    ],
)
def test_a_page_of_another_site_gets_nothing(address: str, headers: dict[str, str], status: int) -> None:
    response = httpx.post(f"{address}/mcp", json=initialize(), headers={**HEADERS, **headers})
    assert response.status_code == status
    assert "protocolVersion" not in response.text


def test_a_page_of_this_server_is_answered(address: str) -> None:
    response = httpx.post(f"{address}/mcp", json=initialize(), headers={**HEADERS, "origin": address})
    assert response.status_code == 200


@pytest.mark.parametrize("content", [b"{", b"[]", b"7", b'{"jsonrpc": "2.0"}', b"[" * 60_000, b"\xff"])
def test_hostile_bodies_are_refused(address: str, content: bytes) -> None:
    response = httpx.post(f"{address}/mcp", content=content, headers=HEADERS)
    assert response.status_code == 400, response.text


def test_a_large_body_is_refused(address: str) -> None:
    response = httpx.post(f"{address}/mcp", content=b"x" * 131_073, headers=HEADERS)
    assert response.status_code == 413


def test_the_application_without_tools_has_no_such_path(milvus: FakeMilvus) -> None:
    with query_app(milvus) as made:
        assert made.call("POST", "/mcp", json=initialize()).status_code == 404
