"""The query worker's application in this process, over a fake Milvus and the hash model."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from consumers.http.server import HttpServer, listen
from consumers.query.app import create_app
from pipeline.embedding import HashEmbedder, embed_documents
from pipeline.query import EmbeddingService, QueryBatcher, Searcher, SearchService
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.asgi import client_of, send
from tests.support.rigs.search import COLLECTION
from tests.support.waiting import eventually


class QueryApp:
    """An application and a client of it."""

    def __init__(self, app: FastAPI, model: HashEmbedder, registry: CollectorRegistry) -> None:
        self.app = app
        self.model = model
        self.registry = registry

    def client(self) -> httpx.AsyncClient:
        return client_of(self.app)

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return send(self.app, method, path, **options)

    def post(self, path: str, **body: object) -> httpx.Response:
        return self.call("POST", path, json=body)

    def outcome(self, name: str) -> float:
        return self.registry.get_sample_value("query_requests_total", {"outcome": name}) or 0.0


@contextmanager
def query_app(
    milvus: FakeMilvus, embedder: HashEmbedder | None = None, *, concurrency: int = 4, **options: Any
) -> Iterator[QueryApp]:
    """The application with every route; the embedder is `hash:2` unless given. `options` are those of `create_app`."""
    registry = CollectorRegistry()
    embedder = embedder or HashEmbedder("hash:2")
    with (
        closing(QueryBatcher(embedder.embed_queries)) as queries,
        closing(QueryBatcher(partial(embed_documents, embedder), cache_size=0)) as documents,
        closing(
            SearchService(Searcher(milvus, COLLECTION), queries, QueryMetrics(registry), concurrency=concurrency)
        ) as service,
    ):
        embeddings = EmbeddingService(embedder, queries, documents)
        made = create_app(service, dict, registry=registry, embeddings=embeddings, **options)
        yield QueryApp(made, embedder, registry)


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application on a socket; gives its address."""
    listener = listen("query", "127.0.0.1", 0)
    server = HttpServer(app, listener, connections=64, drain_s=5)
    thread = threading.Thread(target=server.serve_until_stopped)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.start()
    try:
        eventually(lambda: server.started)
        yield address
    finally:
        server.should_exit = True
        thread.join()
