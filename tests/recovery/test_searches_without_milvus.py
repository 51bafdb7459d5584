"""A query worker whose Milvus is killed, started again, frozen and let go on: what its clients see."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from consumers.local import LocalMilvusLite, LocalMilvusStandalone
from consumers.local.server import LocalServer, free_ports
from consumers.query.app import create_app
from consumers.wiring.query import readiness
from pipeline.embedding import HashEmbedder, embed_documents
from pipeline.query import EmbeddingService, FreshnessWatch, QueryBatcher, Searcher, SearchService
from pipeline.store import connect
from pipeline.telemetry.metrics import QueryMetrics
from tests.chaos.servers import Killable
from tests.support.documents import DIMENSION, put
from tests.support.processes import running
from tests.support.rigs.query_app import served
from tests.support.stores import make_store, write
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

COLLECTION = "documents"
RESTART_S = 150
"""Milvus 2.3.5 waits up to a minute for the sessions of the server that died."""
AWAY = "milvus-away"
LONG = {"timeout_ms": 60_000}
"""Whoever waited for the time of such a request would fail the client's own limit."""
STARTING = {AWAY, "unavailable", "not-loaded", "timeout"}


class Site:
    """A query worker over a real Milvus, and a client of it."""

    def __init__(self, machine: Killable, client: httpx.Client) -> None:
        self.machine = machine
        self.client = client
        self.seen: set[str] = set()

    def call(self, method: str, path: str, **body: object) -> str:
        """`ok`, or the last part of the problem's type."""
        answer = self.client.request(method, path, json=body if method == "POST" else None)
        if answer.status_code == 200:
            return "ok"
        problem: dict[str, Any] = answer.json()
        code = problem["error"]["code"].replace("_", "-") if "error" in problem else problem["type"].rpartition(":")[2]
        self.seen.add(code)
        return str(code)

    def search(self, **more: object) -> str:
        return self.call("POST", "/v1/search", query="q", **more)

    def everything(self) -> set[str]:
        """What every way in answers that needs Milvus."""
        return {
            self.search(**LONG),
            self.search(freshness={"level": "strong"}, **LONG),
            self.call("POST", "/v1/similar", doc_id="a", **LONG),
            self.call("GET", "/v1/documents/a?timeout_ms=60000"),
            self.call("GET", "/v1/documents/a/history?timeout_ms=60000"),
            self.call("POST", f"/v1/vector_stores/{COLLECTION}/search", query="q"),
            self.call("GET", "/v1/retrieve?query=q"),
            self.call("GET", "/v1/statistics"),
            self.call("GET", "/v1/inputs"),
            self.call("GET", "/v1/freshness"),
        }


@pytest.fixture(params=[LocalMilvusStandalone, LocalMilvusLite])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Killable]:
    server: LocalServer = request.param(tmp_path / "milvus", free_ports(1)[0])
    server.start()
    try:
        yield Killable(server)
    finally:
        server.stop()


@pytest.fixture
def site(machine: Killable) -> Iterator[Site]:
    model = HashEmbedder(f"hash:{DIMENSION}")
    with ExitStack() as stack:
        api = stack.enter_context(closing(connect(machine.server.address, fail_fast=True)))
        write(make_store(api, COLLECTION).upsert_writer(), [put("a", "some words", 1)])
        queries = stack.enter_context(closing(QueryBatcher(model.embed_queries)))
        documents = stack.enter_context(closing(QueryBatcher(partial(embed_documents, model), cache_size=0)))
        search = Searcher(api, COLLECTION)
        registry = CollectorRegistry()
        watch = FreshnessWatch(api, COLLECTION, None)
        service = stack.enter_context(
            closing(SearchService(search, queries, QueryMetrics(registry), concurrency=4, freshness=watch))
        )
        app = create_app(
            service, readiness(search), registry=registry, embeddings=EmbeddingService(model, queries, documents)
        )
        client = httpx.Client(base_url=stack.enter_context(served(app)), timeout=20)
        yield Site(machine, stack.enter_context(client))


@pytest.mark.timeout(600)
def test_an_outage_is_answered_at_once_and_over_when_milvus_is_back(site: Site) -> None:
    eventually(lambda: site.search() == "ok", within=30)
    site.machine.kill()
    assert site.search(**LONG) == AWAY, "found out by the first request"
    assert site.everything() == {AWAY}
    assert site.client.get("/readyz").status_code == 503
    assert site.call("POST", "/v1/embeddings", input="q") == "ok"
    site.machine.launch()
    eventually(lambda: site.search() == "ok", within=RESTART_S)
    eventually(lambda: site.everything() == {"ok"}, within=RESTART_S, what="the ledger, too")
    assert site.seen <= STARTING


@pytest.mark.timeout(300)
def test_a_frozen_milvus_is_a_question_of_time_at_first_and_away_then(site: Site) -> None:
    eventually(lambda: site.search() == "ok", within=30)
    site.machine.freeze()
    try:
        assert site.search(timeout_ms=500) == "timeout"
        eventually(lambda: site.search(timeout_ms=2_000) == AWAY, within=30)
        assert site.everything() == {AWAY}
    finally:
        site.machine.thaw()
    eventually(lambda: site.search() == "ok", within=30)
    assert site.seen <= STARTING


@pytest.mark.timeout(300)
@pytest.mark.parametrize("machine", [LocalMilvusLite], indirect=True)
def test_the_command_serve_does_not_wait_for_a_milvus_that_is_gone(machine: Killable, tmp_path: Path) -> None:
    given = (f"milvus.uri={machine.server.address}", "embedding.model=hash:8", "query.port=0",
             "telemetry.log_format=json")  # fmt: skip
    command = ["-m", "consumers.cli", "serve", *(part for one in given for part in ("--set", one))]
    with running(command, tmp_path / "log") as worker:
        listening = eventually(lambda: re.search(r".*query\.listening.*", worker.errors()), within=60)
        port = json.loads(listening[0])["port"]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            site = Site(machine, client)
            assert site.search(**LONG) == "unavailable", "there is no collection yet"
            machine.kill()
            assert site.search(**LONG) == AWAY
