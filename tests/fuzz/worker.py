"""A query worker with every route, over a Milvus in memory or a real one, and documents that can be found."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.query.app import create_app
from pipeline.embedding import HashEmbedder, embed_documents
from pipeline.query import (
    Cursors,
    EmbeddingService,
    FreshnessWatch,
    QueryBatcher,
    Searcher,
    SearchService,
)
from pipeline.store import MilvusServerApi, connect
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.documents import DIMENSION, put
from tests.support.fakes.milvus import FakeMilvus
from tests.support.fakes.offsets import FakeOffsets
from tests.support.names import unique
from tests.support.rigs.query_app import served
from tests.support.stores import make_store, write

CONCURRENCY = 8


@contextmanager
def worker(milvus: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Its address, and values by key that its collection has. `milvus`: a server's address; None: in memory."""
    with ExitStack() as stack:
        api: MilvusServerApi = FakeMilvus()
        if milvus is not None:
            api = stack.enter_context(closing(connect(milvus, fail_fast=True)))
        name = unique("fuzz")
        store = make_store(api, name)
        for suffix in ("", "__ledger", "__marks"):
            stack.callback(api.drop_collection, name + suffix)
        offsets = FakeOffsets()
        documents = [
            put("a", "refund failed twice", 1, metadata={"lang": "en", "stars": 5, "tags": ["x", "y"], "title": "A"}),
            put("b", "password forgotten", 2, metadata={"lang": "de", "stars": 1, "path": "docs/b.md"}),
            put("c/d", "order arrived", 3, day=-1, metadata={"deep": {"er": [1, None]}}),
            put("e", "of one tenant", 4, tenant="acme"),
        ]
        write(store.upsert_writer(), documents)
        offsets.commits, offsets.ends = {("topic", 0): 10}, {("topic", 0): 10}
        model = HashEmbedder(f"hash:{DIMENSION}")
        queries = stack.enter_context(closing(QueryBatcher(model.embed_queries)))
        texts = stack.enter_context(closing(QueryBatcher(partial(embed_documents, model), cache_size=0)))
        registry = CollectorRegistry()
        service = SearchService(
            Searcher(api, name),
            queries,
            QueryMetrics(registry),
            concurrency=CONCURRENCY,
            cursors=Cursors(b"a key of the fuzzer's", name),
            freshness=FreshnessWatch(api, name, offsets),
        )
        app = create_app(
            stack.enter_context(closing(service)),
            dict,
            registry=registry,
            embeddings=EmbeddingService(model, queries, texts),
        )
        yield stack.enter_context(served(app)), _known(name)


def _known(collection: str) -> Mapping[str, Any]:
    return {
        "collection": [collection],
        "doc_id": ["a", "b", "c/d", "e"],
        "query": ["refund", "a", ["refund", "password"]],
        "input": ["a text", ["one", "two"]],
        "vector": [[1.0] * DIMENSION, [[0.5] * DIMENSION] * 2],
        "filter": [{"type": "eq", "key": "lang", "value": "en"}, {"type": "exists", "key": "tags"}],
        "filters": [{"type": "gte", "key": "stars", "value": 2}],
        "metadata_filter": ["lang == 'en'"],
        "filepath_globpattern": ["docs/**"],
        "facets": [["lang", "tags"]],
        "fields": [["lang"], []],
        "time": [{"last": "90d"}, {"from": "2026-11-20"}],
        "tenant": ["acme"],
        "freshness": [{"level": "strong"}, {"wait_for": [{"topic": "topic", "partition": 0, "offset": 3}]}],
        "timeout_ms": [2_000, 10],
        "k": [3],
        "limit": [1, 10],
    }
