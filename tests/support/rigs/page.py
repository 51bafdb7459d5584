"""The query worker's application with its page, over a fake Milvus."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from consumers.query.access import Access, KeyFile, Scope, change_keys, new_key
from consumers.query.app import create_app
from consumers.query.web import Page, PageParts
from consumers.query.web.ports import (
    DeadLetterSample,
    Freshness,
    KafkaPartitionState,
    PipelineState,
    WholeDocument,
)
from pipeline.query import DocumentService, PartitionCensus, QueryBatcher, Searcher, SearchService
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.asgi import send
from tests.support.rigs.search import COLLECTION

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">\"'&{{7*7}} hx-get=/x"


def keys(path: Path) -> tuple[Access, dict[str, str]]:
    """Access by a file of three keys, and the keys by name: an operator's, one for every tenant, one for `acme`."""
    texts = {}
    options: list[tuple[str, Scope, str | None]] = [("operator", "admin", None), ("reader", "search", None)]
    with change_keys(path) as stored:
        for name, scope, tenant in [*options, ("acme", "search", "acme")]:
            texts[name], key = new_key(
                name, scopes=(scope,), tenant=tenant, rate=None, created=datetime.now(UTC), expires=None
            )
            stored.append(key)
    return Access(KeyFile(path)), texts


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Every text to the east, as the library's angles count from there."""
    return np.array([[1, 0]] * len(texts), np.float32)


class Shelf:
    """Documents and freshness: what other parts of the worker give."""

    def __init__(self) -> None:
        self.documents: dict[str, WholeDocument] = {}
        self.calls: list[tuple[str, str, str | None]] = []

    async def document(self, doc_id: str, *, tenant: str | None) -> WholeDocument | None:
        self.calls.append(("document", doc_id, tenant))
        return self.documents.get(doc_id)

    async def freshness(self) -> Freshness:
        return Freshness(searchable_until_ms=1_795_000_000_000, lag_records=1_234)


def marks(query: str, text: str) -> list[tuple[int, int]]:
    """Where the words of the query are in the text."""
    spans = []
    for word in dict.fromkeys(query.casefold().split()):
        at = text.casefold().find(word)
        while at >= 0:
            spans.append((at, at + len(word)))
            at = text.casefold().find(word, at + len(word))
    return sorted(spans)


def pipeline_state() -> PipelineState:
    """A pipeline with a hostile record among its dead letters."""
    return PipelineState(
        kafka_partitions=[
            KafkaPartitionState("documents", 0, 900, 1_000, 100),
            KafkaPartitionState("documents", 1, None, 40, 40),
        ],
        records_per_s=12.5,
        last_flush_ms=1_795_000_000_000,
        dead_letters={"not_json": 2, HOSTILE: 1},
        samples=[DeadLetterSample("documents", 0, 17, "not_json", f"is no JSON: {HOSTILE}", HOSTILE)],
        workers=["worker-0"],
    )


class PageRig:
    """One application with its page; `parts` are the optional parts of `PageParts`."""

    def __init__(
        self,
        milvus: FakeMilvus,
        *,
        concurrency: int = 4,
        max_results: int = 1_000,
        access: Access | None = None,
        finds_similar: bool = False,
        **parts: Any,
    ) -> None:
        self.milvus = milvus
        self.batcher = QueryBatcher(embed)
        registry = CollectorRegistry()
        searcher = Searcher(milvus, COLLECTION)
        access = access or Access()
        service = SearchService(
            searcher, self.batcher, QueryMetrics(registry), max_results=max_results, concurrency=concurrency
        )
        if finds_similar:
            parts["similar"] = DocumentService(service)
        self.page = Page(
            PageParts(
                collection=COLLECTION,
                searches=service,
                access=access,
                names=lambda tenant: searcher.metadata_names(200, tenant=tenant),
                **{"partitions": PartitionCensus(milvus, COLLECTION).read, **parts},
            )
        )
        self.app: FastAPI = create_app(service, dict, registry=registry, access=access, page=self.page)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """One request by a client that runs no script."""
        return self.call("GET", path, **options)

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request; redirects are not followed."""
        return send(self.app, method, path, **options)

    def close(self) -> None:
        """End its threads."""
        self.milvus.gate.set()
        self.page.close()
        self.batcher.close()
