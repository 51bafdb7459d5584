"""The query worker over real servers: metadata, pruning, races with retention, released partitions, and its process."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray

from consumers.query.server import serve
from pipeline.embedding import EmbeddingSettings, load_embedder
from pipeline.errors import RequestRefused, RequestTooLarge, UsageError
from pipeline.query import FetchSettings, InvalidRequest, Searcher, SearchResult, SearchSettings, parse_request
from pipeline.query.answer import Skipped
from pipeline.store import IndexSettings, MilvusServerApi, VectorSearch, connect, open_collection
from pipeline.store.partition_names import partition_name
from pipeline.timestamps import event_time_ms
from tests.chaos.proxy import Fault, FaultProxy
from tests.support.names import unique
from tests.support.processes import running
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

DIMENSION = 16
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")
EAST: NDArray[np.float32] = np.eye(1, DIMENSION, dtype=np.float32)


class Shelf:
    """A collection with three chunks of three documents on each of three days."""

    def __init__(self, api: MilvusServerApi, name: str) -> None:
        self.api = api
        self.name = name
        self.searcher = Searcher(api, name)

    def fill(self) -> None:
        for day, date in enumerate(DAYS):
            time = event_time_ms(date)
            partition = partition_name("day", time)
            self.api.create_partition(self.name, partition)
            rows = [self._row(day, date, doc, chunk) for doc in range(3) for chunk in range(3)]
            self.api.upsert(self.name, partition, rows)
        eventually(lambda: len(self.find(limit=100, group_by=None).results[0]) == 27, what="all rows to be searchable")

    def _row(self, day: int, date: str, doc: int, chunk: int) -> dict[str, Any]:
        vector = EAST[0].copy()
        vector[1] = 0.1 * (day * 9 + doc * 3 + chunk)
        return {
            "id": f"{day * 9 + doc * 3 + chunk:064x}",
            "doc_id": f"{date} {doc}",
            "chunk": chunk,
            "text": f"chunk {chunk}",
            "vector": vector,
            "event_time": event_time_ms(date) + doc,
            "kafka_topic": "t",
            "kafka_partition": 0,
            "kafka_offset": day * 3 + doc,
            "content-type": "text/plain",
            "größe": {"x": [1, 2.5, None, True]},
            "n": doc,
        }

    def find(self, timeout_s: float = 10.0, **body: object) -> SearchResult:
        return self.searcher.search(parse_request({"query": "q", **body}), EAST, timeout_s, now_ms=0)


@pytest.fixture(scope="module", params=["milvus_uri", "milvus_lite_uri"])
def shelf(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    with closing(connect(request.getfixturevalue(request.param))) as api:
        name = unique("query")
        try:
            open_collection(api, name, {"name": "test"}, DIMENSION, IndexSettings(), create=True)
            made = Shelf(api, name)
            made.fill()
            yield made
        finally:
            api.drop_collection(name)


def doc_ids(found: SearchResult) -> list[str]:
    return [result.doc_id for result in found.results[0]]


def test_results_pruning_and_filters(shelf: Shelf) -> None:
    best = shelf.find(limit=1, mode="dense").results[0][0]
    assert (best.doc_id, best.chunk, best.partition) == ("2026-11-20 0", 0, "d20261120")
    assert best.score == pytest.approx(1.0)
    assert best.metadata == {"content-type": "text/plain", "größe": {"x": [1, 2.5, None, True]}, "n": 0}
    assert shelf.find(limit=1, fields=["content-type"]).results[0][0].metadata == {"content-type": "text/plain"}
    assert shelf.find(limit=1, fields=[]).results[0][0].metadata == {}

    found = shelf.find(time={"from": "2026-11-21", "to": "2026-11-21T00:00:00.002Z"})
    assert doc_ids(found) == ["2026-11-21 0", "2026-11-21 1"]
    assert found.searched.partitions == ("d20261121",)
    assert {skip.name for skip in found.searched.skipped} == {"d20261120", "d20261122"}

    found = shelf.find(filter={"type": "in", "key": "n", "value": [2, 7]}, time={"to": "2026-11-22"})
    assert doc_ids(found) == ["2026-11-20 2", "2026-11-21 2"]
    assert shelf.find(filter={"type": "eq", "key": "Content-Type", "value": "x"}).warnings == (
        "the filter names 'Content-Type', and no row with such a field was found; did you mean 'content-type'?",
    )


def test_the_limit_is_filled_though_chunks_crowd(shelf: Shelf) -> None:
    found = shelf.find(limit=9)
    assert len(doc_ids(found)) == len(set(doc_ids(found))) == 9
    assert [result.chunk for result in found.results[0]] == [0] * 9


def test_rows_fetched_after_ranking_are_the_same(shelf: Shelf) -> None:
    one_call, many_calls = (
        Searcher(shelf.api, shelf.name, SearchSettings(FetchSettings(whole_rows=n))) for n in (128, 4)
    )
    not_one = {"type": "ne", "key": "n", "value": 1}
    bodies: list[dict[str, Any]] = [{}, {"fields": []}, {"time": {"from": "2026-11-21"}, "filter": not_one}]
    for body in bodies:
        request = parse_request({"query": "q", "limit": 27, "group_by": None, **body})
        found = many_calls.search(request, EAST, 10.0, now_ms=0)
        assert found == one_call.search(request, EAST, 10.0, now_ms=0)
        assert len(found.results[0]) >= 12


@pytest.fixture(scope="module", params=["milvus_uri", "milvus_lite_uri"])
def large(request: pytest.FixtureRequest) -> Iterator[Shelf]:
    """300 documents of 60 KB: more than one answer of Milvus takes, if a few texts ask for all of them."""
    with closing(connect(request.getfixturevalue(request.param))) as api:
        name = unique("query")
        try:
            open_collection(api, name, {"name": "test"}, DIMENSION, IndexSettings("FLAT"), create=True)
            text = "x" * 60_000
            for start in range(0, 300, 100):
                api.upsert(name, None, [{**large_row(number), "text": text} for number in range(start, start + 100)])
            eventually(lambda: len(api.query(name, "chunk == 0", ["id"], limit=1000)) == 300, what="rows visible")
            yield Shelf(api, name)
        finally:
            api.drop_collection(name)


def large_row(number: int) -> dict[str, Any]:
    vector = EAST[0].copy()
    vector[1] = number / 100
    position = {"kafka_topic": "t", "kafka_partition": 0, "kafka_offset": number}
    return {"id": f"{number:064x}", "doc_id": f"d{number}", "chunk": 0, "vector": vector, "event_time": 0, **position}


def test_an_answer_of_large_rows_is_bounded(large: Shelf) -> None:
    request = parse_request({"query": "q", "limit": 130})
    assert doc_ids(large.searcher.search(request, EAST, 30.0, now_ms=0)) == [f"d{number}" for number in range(130)]
    four = parse_request({"query": ["q"] * 4, "limit": 250})
    for request, vectors in (
        (parse_request({"query": "q", "limit": 300}), EAST),
        (four, EAST.repeat(4, 0)),
    ):
        with pytest.raises(InvalidRequest, match=r"^/limit: makes an answer of more than 8,388,608 bytes; lower it"):
            large.searcher.search(request, vectors, 30.0, now_ms=0)


def test_what_milvus_refuses_has_its_own_error(large: Shelf) -> None:
    if not large.api.server.lite:  # it sends answers of any size
        with pytest.raises(RequestTooLarge):
            large.api.search(large.name, VectorSearch(EAST.repeat(4, 0), 300, fields=["text"], timeout_s=60.0))
    for expression in ('$meta["a" == 1', "chunk == ", 'chunk == "x"'):
        search = VectorSearch(EAST, 1, expression=expression, fields=["chunk"], timeout_s=10.0)
        with pytest.raises(RequestRefused):
            large.api.search(large.name, search)


def test_retention_drops_a_partition_during_a_search(shelf: Shelf) -> None:
    searcher = Searcher(shelf.api, shelf.name, clock=lambda: 0.0)  # what was listed never grows old
    request = parse_request({"query": "q", "time": {"to": "2026-11-21"}})
    shelf.api.create_partition(shelf.name, "d20261101")
    assert searcher.search(request, EAST, 10.0, now_ms=0).searched.partitions == ("d20261101", "d20261120")
    shelf.api.drop_partition(shelf.name, "d20261101")
    found = searcher.search(request, EAST, 10.0, now_ms=0)
    assert doc_ids(found) == [f"2026-11-20 {doc}" for doc in range(3)]
    assert found.searched.partitions == ("d20261120",)
    assert Skipped("d20261101", "dropped") in found.searched.skipped


def test_a_released_partition_is_said_to_be_skipped(shelf: Shelf) -> None:
    searcher = Searcher(shelf.api, shelf.name)
    request = parse_request({"query": "q"})
    if shelf.api.server.lite:  # it keeps every partition loaded
        assert searcher.search(request, EAST, 10.0, now_ms=0).searched.skipped == ()
        return
    shelf.api.release_partitions(shelf.name, ["d20261120"])
    try:
        found = searcher.search(request, EAST, 10.0, now_ms=0)
    finally:
        shelf.api.load_partitions(shelf.name, ["d20261120"])
    assert sorted(doc_ids(found)) == [f"2026-11-2{day} {doc}" for day in (1, 2) for doc in range(3)]
    assert found.searched.skipped == (Skipped("d20261120", "not_loaded"),)


# --- the process ------------------------------------------------------------------------------------------------

WORKER = """
import asyncio, json, sys
from prometheus_client import CollectorRegistry
from consumers.query.app import create_app
from consumers.query.server import serve
from pipeline.embedding import EmbeddingSettings, load_embedder
from pipeline.query import QueryBatcher, Searcher, SearchService
from pipeline.store import connect
from pipeline.telemetry import QueryMetrics, configure_logging

uri, collection, port = sys.argv[1:]
configure_logging("info", "json")
model = load_embedder(EmbeddingSettings(model="hash:16"))
batcher = QueryBatcher(model.embed_queries)

class Slow:
    async def embed(self, texts):
        print(json.dumps({"message": "embedding", "text": texts[0]}), file=sys.stderr, flush=True)
        await asyncio.sleep(0.5 if texts[0] == "late" else 0)
        return await batcher.embed(texts)

registry = CollectorRegistry()
searcher = Searcher(connect(uri), collection)
service = SearchService(searcher, Slow(), QueryMetrics(registry))
app = create_app(service, dict, registry=registry)
serve(app, "127.0.0.1", int(port), drain_s=10)
batcher.close()
print("ended well")
"""


@pytest.fixture
def worker(milvus_uri: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, list[dict[str, Any]]]]:
    """A query worker in a process of its own, its address and its log."""
    name = unique("query")
    log: list[dict[str, Any]] = []
    with closing(connect(milvus_uri)) as api:
        model = load_embedder(EmbeddingSettings(model="hash:16"))
        open_collection(api, name, {"name": "test"}, DIMENSION, IndexSettings(), create=True)
        script = tmp_path / "worker.py"
        script.write_text(WORKER)
        process = subprocess.Popen(
            [sys.executable, str(script), milvus_uri, name, "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

        def read() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                with suppress(json.JSONDecodeError):
                    log.append(json.loads(line))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            listening = eventually(
                lambda: next((line for line in log if line.get("message") == "query.listening"), None), within=60
            )
            yield process, f"http://127.0.0.1:{listening['port']}", log
        finally:
            process.kill()
            process.communicate()
            reader.join()
            model.close()
            api.drop_collection(name)


def test_sigterm_answers_what_is_under_way_and_ends_with_0(
    worker: tuple[subprocess.Popen[str], str, list[dict[str, Any]]],
) -> None:
    process, address, log = worker
    with httpx.Client(base_url=address, timeout=30) as client:
        eventually(lambda: client.get("/healthz").status_code == 200)
        assert client.post("/v1/search", json={"query": "warm"}).json()["results"] == []
        answers: list[httpx.Response] = []
        asker = threading.Thread(target=lambda: answers.append(client.post("/v1/search", json={"query": "late"})))
        asker.start()
        eventually(lambda: any(line.get("text") == "late" for line in log))
        process.send_signal(signal.SIGTERM)
        asker.join()
    assert [response.status_code for response in answers] == [200]
    assert process.wait(15) == 0
    assert process.stdout is not None
    assert process.stdout.read() == "ended well\n"
    assert sum(line.get("message") == "search.answered" for line in log) == 2
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")


def test_a_search_that_milvus_keeps_waiting_does_not_hold_the_exit(milvus_uri: str, tmp_path: Path) -> None:
    proxy = FaultProxy(int(milvus_uri.rpartition(":")[2]), seed=1)
    name = unique("query")
    given = (f"milvus.uri=http://127.0.0.1:{proxy.port}", f"milvus.collection={name}", "embedding.model=hash:16",
             "query.port=0", "shutdown_timeout=1s", "telemetry.log_format=json")  # fmt: skip
    command = ["-m", "consumers.cli", "serve", *(part for one in given for part in ("--set", one))]
    try:
        with running(command, tmp_path / "log") as worker:
            port = eventually(lambda: listening(worker.errors()), within=60)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                with (
                    closing(connect(milvus_uri)) as api,
                    closing(load_embedder(EmbeddingSettings(model="hash:16"))) as model,
                ):
                    open_collection(api, name, asdict(model.stamp), DIMENSION, IndexSettings(), create=True)
                assert client.post("/v1/search", json={"query": "warm"}).status_code == 200
                proxy.inject(Fault("blackhole"))
                body = {"query": "late", "timeout_ms": 60_000}
                asker = threading.Thread(target=lambda: suppressed(client, body), daemon=True)
                asker.start()
                eventually(lambda: proxy.refused > 0)
                assert worker.end(signal.SIGTERM, within=20) == 0
                asker.join()
    finally:
        proxy.close()
        with closing(connect(milvus_uri)) as api:
            api.drop_collection(name)


def test_the_command_answers_as_the_worker_does(milvus_uri: str, tmp_path: Path) -> None:
    name = unique("query")
    given = (f"milvus.uri={milvus_uri}", f"milvus.collection={name}", "embedding.model=hash:16", "query.port=0",
             "query.max_limit=20", "telemetry.log_format=json")  # fmt: skip
    options = [part for one in given for part in ("--set", one)]
    with closing(connect(milvus_uri)) as api, closing(load_embedder(EmbeddingSettings(model="hash:16"))) as model:
        try:
            open_collection(api, name, asdict(model.stamp), DIMENSION, IndexSettings("FLAT"), create=True)
            rows = [{**large_row(number), "text": f"text {number}", "n": number % 2} for number in range(6)]
            api.upsert(name, None, [{**row, "event_time": event_time_ms("2026-11-22")} for row in rows])
            eventually(lambda: len(api.query(name, "", ["id"], limit=100)) == 6, what="rows visible")
            with running(["-m", "consumers.cli", "serve", *options], tmp_path / "log") as worker:
                port = eventually(lambda: listening(worker.errors()), within=60)
                body = {"query": "q", "limit": 4, "time": {"from": "2026-11-22", "to": "2026-11-23"}}
                node = {"type": "and", "filters": [{"type": "eq", "key": "n", "value": 1}]}
                served = httpx.post(f"http://127.0.0.1:{port}/v1/search", json={**body, "filter": node}, timeout=60)
                assert served.status_code == 200, served.text
                request = [
                    "q",
                    "--limit",
                    "4",
                    "--from",
                    "2026-11-22",
                    "--to",
                    "2026-11-23",
                    "--where",
                    "n=1",
                    "--json",
                ]
                printed = command("search", *request, *options)
                refused = command("search", "q", "--limit", "21", *options)
        finally:
            api.drop_collection(name)
    assert printed.returncode == 0, printed.stderr
    answers = [served.json(), json.loads(printed.stdout)]
    for answer in answers:
        timing = answer.pop("timing_ms")
        assert timing["total"] == pytest.approx(timing["embed"] + timing["search"], abs=0.002)
    assert answers[0] == answers[1]
    assert len(answers[0]["results"]) == 3
    assert "search.answered" not in printed.stderr
    assert refused.returncode == 2
    assert "/limit: must be a whole number from 1 to 20" in refused.stderr


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "consumers.cli", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2])


def listening(log: str) -> int | None:
    lines = [json.loads(line) for line in log.splitlines() if "query.listening" in line]
    return int(lines[0]["port"]) if lines else None


def suppressed(client: httpx.Client, body: dict[str, Any]) -> None:
    with suppress(httpx.HTTPError):
        client.post("/v1/search", json=body)


def test_an_address_that_is_taken_is_a_usage_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=r"query\.port"):
            serve(FastAPI(), "127.0.0.1", port)
