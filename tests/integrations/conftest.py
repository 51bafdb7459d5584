"""The collection that the other programs open, and the environments they are installed in.

Each program runs in a process of its own environment; `make test-integrations` makes them and sets INTEGRATIONS.
Without it nothing here is collected.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.query.app import create_app
from pipeline.embedding import HashEmbedder, embed_documents
from pipeline.query import EmbeddingService, QueryBatcher, Searcher, SearchService
from pipeline.store import IndexSettings, MilvusServerApi, connect, open_collection
from pipeline.store.partition_names import partition_name
from pipeline.telemetry.metrics import QueryMetrics
from tests.docs.blocks import DOCS, blocks
from tests.support.names import unique
from tests.support.rigs.query_app import served
from tests.support.waiting import eventually

collect_ignore_glob = [] if "INTEGRATIONS" in os.environ else ["test_*.py"]

ROOT = DOCS.parent
HOUR_MS = 3_600_000
DIMENSION = 64
_COLLECTION = re.compile(r'(?<!\[)"documents"')
"""The collection's name on the page; in brackets it is a key of an answer."""


@dataclass(frozen=True)
class Place:
    """A filled collection, and a query worker over it."""

    api: MilvusServerApi
    milvus: str
    worker: str
    collection: str
    today: str
    """The Milvus partition of the documents `a`, `b` and `c`."""
    before: str
    """That of `d`."""

    def run(self, label: str, checks: str) -> Any:
        """Run the block of docs/integrations.md with this label in its environment, then the checks.

        Returns what the checks leave in `seen`.
        """
        (code,) = [content for found, content in blocks(DOCS / "integrations.md", "python") if found == label]
        return self.script(label, f"{code}\n{checks}")

    def script(self, label: str, code: str) -> Any:
        """Run code of the page's addresses and collection name against this place."""
        replaced = {
            "http://localhost:8080": self.worker,
            "http://localhost:19530": self.milvus,
            "TODAY": self.today,
        }
        for shown, real in replaced.items():
            code = code.replace(shown, real)
        code = _COLLECTION.sub(json.dumps(self.collection), code)
        environment = ROOT / (".venv-integrations-llamaindex" if label == "llamaindex" else ".venv-integrations")
        ended = subprocess.run(
            [environment / "bin" / "python", "-c", f"{code}\nimport json\nprint(json.dumps(seen))"],
            capture_output=True,
            check=False,
            text=True,
            timeout=240,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT) if label == "retriever" else ""},
        )
        assert ended.returncode == 0, ended.stderr[-4_000:]
        return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["milvus_uri", "milvus_lite_uri"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    uri: str = request.getfixturevalue(request.param)
    model = HashEmbedder(f"hash:{DIMENSION}")
    now = time.time_ns() // 1_000_000
    name = unique("integrations")
    with (
        closing(connect(uri)) as api,
        closing(QueryBatcher(model.embed_queries)) as queries,
        closing(QueryBatcher(partial(embed_documents, model), cache_size=0)) as documents,
    ):
        try:
            open_collection(api, name, {"name": "test"}, DIMENSION, IndexSettings(), create=True)
            texts = {"a": "refund failed", "b": "refund failed", "c": "password forgotten", "d": "refund failed"}
            for number, (doc_id, text) in enumerate(texts.items()):
                event_time = now - (30 if doc_id == "d" else 1) * HOUR_MS
                partition = partition_name("day", event_time)
                api.create_partition(name, partition)
                row = {
                    "id": f"{number:064x}",
                    "doc_id": doc_id,
                    "chunk": 0,
                    "text": text,
                    "vector": model.embed_queries([text])[0],
                    "event_time": event_time,
                    "kafka_topic": "t",
                    "kafka_partition": 0,
                    "kafka_offset": number,
                    "lang": "de" if doc_id == "b" else "en",
                }
                api.upsert(name, partition, [row])
            eventually(lambda: len(api.query(name, "chunk == 0", ["id"], limit=10)) == 4, what="the rows to be visible")
            service = SearchService(Searcher(api, name), queries, QueryMetrics(CollectorRegistry()))
            embeddings = EmbeddingService(model, queries, documents)
            app = create_app(service, dict, registry=CollectorRegistry(), embeddings=embeddings)
            with served(app) as worker:
                today, before = (partition_name("day", now - hours * HOUR_MS) for hours in (1, 30))
                yield Place(api, uri, worker, name, today, before)
        finally:
            api.drop_collection(name)


@pytest.fixture(scope="session")
def programs() -> Path:
    """Where the programs of the other environment are."""
    return ROOT / ".venv-integrations" / "bin"
