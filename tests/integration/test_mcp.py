"""`milvus-stream mcp` as a process, with the client of the official SDK, over a real Milvus Lite."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult

from pipeline.embedding import EmbeddingSettings, load_embedder
from pipeline.store import IndexSettings, connect, open_collection
from pipeline.timestamps import event_time_ms
from tests.support.names import unique
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers
MODEL = "hash:16"


@pytest.fixture(scope="module")
def command(milvus_lite_uri: str) -> Iterator[list[str]]:
    """The command over a collection with one document."""
    name = unique("mcp")
    with (
        closing(connect(milvus_lite_uri)) as api,
        closing(load_embedder(EmbeddingSettings(model=MODEL))) as model,
    ):
        try:
            open_collection(api, name, asdict(model.stamp), 16, IndexSettings(), create=True)
            row = {
                "id": f"{1:064x}",
                "doc_id": "ticket-1",
                "chunk": 0,
                "text": "the refund failed",
                "vector": model.embed_queries(["the refund failed"])[0],
                "event_time": event_time_ms("2026-11-22"),
                "kafka_topic": "t",
                "kafka_partition": 0,
                "kafka_offset": 1,
                "lang": "en",
            }
            api.upsert(name, None, [row])
            eventually(lambda: len(api.query(name, "chunk == 0", ["id"], limit=9)) == 1, what="the row to be visible")
            given = (f"milvus.uri={milvus_lite_uri}", f"milvus.collection={name}", f"embedding.model={MODEL}")
            yield [sys.executable, "-m", "consumers.cli", "mcp", *(word for one in given for word in ("--set", one))]
        finally:
            api.drop_collection(name)


def test_the_tools_are_called_over_standard_input_and_output(command: list[str]) -> None:
    async def run() -> tuple[set[str], list[CallToolResult]]:
        server = StdioServerParameters(command=command[0], args=command[1:], cwd=Path.cwd())
        async with Client(server) as client:
            return (
                {tool.name for tool in (await client.list_tools()).tools},
                [
                    await client.call_tool("search", {"query": "the refund failed"}),
                    await client.call_tool("describe", {}),
                    await client.call_tool("search", {"query": ""}),
                    await client.call_tool("fetch", {"id": "ticket-1"}),
                    await client.call_tool("freshness", {}),
                ],
            )

    names, (found, described, refused, fetched, fresh) = asyncio.run(asyncio.wait_for(run(), 120))
    assert names == {"search", "describe", "fetch", "freshness"}
    assert [one["id"] for one in found.structured_content["results"]] == ["ticket-1"]
    assert described.structured_content["modes"] == ["dense", "keyword", "hybrid"]
    assert [one["name"] for one in described.structured_content["metadata"]] == ["lang"]
    assert refused.is_error
    assert fetched.structured_content["text"] == "the refund failed"
    assert (fresh.structured_content["event_time"], fresh.structured_content["lag"]) == ("2026-11-22T00:00:00Z", None)


def test_nothing_but_messages_is_on_standard_output(command: list[str]) -> None:
    messages = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        },
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "q"}}},
    ]
    process = subprocess.Popen(
        [*command, "--set", "telemetry.log_level=debug"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        for message in messages:
            process.stdin.write(json.dumps(message) + "\n")
        process.stdin.write("this is no message\n")
        process.stdin.flush()
        answers = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    answers += [json.loads(line) for line in rest.splitlines()]
    assert all(answer["jsonrpc"] == "2.0" for answer in answers)
    assert {1, 2} <= {answer.get("id") for answer in answers}
    assert "search.answered" in errors


def test_a_signal_ends_it(command: list[str]) -> None:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write('{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 143
        finally:
            process.kill()
