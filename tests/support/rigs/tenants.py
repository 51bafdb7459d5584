"""Rows of several tenants with hostile names, and requests that try to see another tenant's.

100,000 tries over a fake server: `python -m tests.support.rigs.tenants 100000`.
"""

import asyncio
import json
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from fastapi import FastAPI
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from starlette.types import Message

from consumers.query.access import Access, KeyFile, change_keys, new_key
from consumers.query.app import create_app
from pipeline.query import FetchSettings, Searcher, SearchService, SearchSettings
from pipeline.query.request.filters import COMPARISONS
from pipeline.records import Position
from pipeline.store import Entry, IndexSettings, MilvusServerApi, entry_row
from pipeline.store.collection.schema import documents_spec, ledger_spec
from pipeline.store.milvus.api import ServerInfo
from pipeline.store.partition_names import partition_name
from pipeline.store.writing.rows import row_id
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.hostile import HOSTILE

COLLECTION = "tenants"
TENANTS = (
    "acme", "ACME", "acme ", "other", 'x" or "" == "', '") or (exists $meta["tenant"]) or ("', "acme\n", "%", "0",
    "true", "null", "\U0010ffff", '$meta["tenant"]',
)  # fmt: skip
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")
MARK = "owned-by-{}-"
"""Begins every name and value that only rows of one tenant have; None's rows have the number of no tenant."""
NAMES = ("tenant", "lang", "meta", "id", "doc_id", "text", "meta_tenant", "Tenant", "TENANT", "tenant ", 'tenant"]',
         "tenant.x", "tenants", "nothing")  # fmt: skip


def rows() -> dict[str, list[dict[str, Any]]]:
    """The rows by their Milvus partition: three days, one document of two chunks for each tenant and day, in upsert."""
    stored: dict[str, list[dict[str, Any]]] = {}
    for number, tenant in enumerate((*TENANTS, None)):
        mark = MARK.format(number)
        for at, day in enumerate(DAYS):
            event_time = _epoch_ms(day)
            partition = partition_name("day", event_time)
            for chunk in range(2):
                row = {
                    "id": row_id(tenant, f"{mark}{day}", chunk, partition),
                    "doc_id": f"{mark}{day}",
                    "chunk": chunk,
                    "text": f"{mark}text refund E1234 {HOSTILE[(number * 7 + chunk) % len(HOSTILE)]}",
                    "vector": np.array([1.0, 0.01 * (number + at + chunk)], np.float32),
                    "event_time": event_time,
                    "kafka_topic": "t",
                    "kafka_partition": 0,
                    "kafka_offset": number * 10 + at,
                    "lang": "en" if chunk else "de",
                    f"{mark}name": f"{mark}value",
                    **({} if tenant is None else {"tenant": tenant}),
                }
                stored.setdefault(partition, []).append(row)
    return stored


def entries() -> list[dict[str, Any]]:
    """Ledger rows of changes that are under way: answers name such documents in a warning."""
    return [
        entry_row(
            Entry(f"{MARK.format(number)}{day}", tenant, Position("t", 0, 500), 0, 0, False, "live",
                  {partition_name("day", _epoch_ms(day)): 2}, "", "", "", "", pending=True)
        )
        for number, tenant in enumerate((*TENANTS, None))
        for day in DAYS[:1]
    ]  # fmt: skip


def _epoch_ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def fake() -> FakeMilvus:
    """A server with these rows, and with a keyword index."""
    api = FakeMilvus(server=ServerInfo("milvus_lite-3.2.2", (3, 2, 2), lite=True))
    api.create_collection(
        documents_spec(COLLECTION, dimension=2, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=True)
    )
    fill(api, COLLECTION)
    return api


def fill(api: MilvusServerApi, collection: str) -> None:
    """Store the rows, and the ledger rows, in a collection that exists."""
    for partition, stored in rows().items():
        api.create_partition(collection, partition)
        api.upsert(collection, partition, stored)
    api.create_collection(ledger_spec(collection))
    api.upsert(f"{collection}__ledger", None, entries())


class Attacker:
    """Sends requests with the key of one tenant and looks for anything of another one in the answers."""

    def __init__(self, app: FastAPI, keys: Sequence[str], seed: int) -> None:
        self._app = app
        self._keys = keys
        self._random = random.Random(seed)
        self.statuses: Counter[int] = Counter()
        self.results = 0
        self.foreign: list[tuple[str, bytes, bytes]] = []
        """Tenant, request and answer of each try that succeeded."""

    async def attack(self, tries: int) -> None:
        """Try so many requests."""
        for _ in range(tries):
            number = self._random.randrange(len(TENANTS))
            body = json.dumps(self.body(), ensure_ascii=self._random.random() < 0.5).encode("utf-8", "surrogatepass")
            status, answer = await self.send(number, body)
            self.statuses[status] += 1
            if self.is_foreign(number, body, status, answer):
                self.foreign.append((TENANTS[number], body, answer))

    async def send(self, number: int, body: bytes) -> tuple[int, bytes]:
        """Status and body of a search with the key of tenant `number`, and with headers that name another."""
        other = self._string().encode("utf-8", "replace").replace(b"\n", b"").replace(b"\r", b"")
        headers = [
            (b"authorization", f"Bearer {self._keys[number]}".encode()),
            (b"content-type", b"application/json"),
            (self._random.choice([b"x-tenant", b"tenant", b"x-scope-orgid", b"x-forwarded-user", b"cookie"]), other),
        ]
        scope = {
            "type": "http", "method": "POST", "path": "/v1/search", "headers": headers,
            "query_string": b"tenant=" + other,
        }  # fmt: skip
        sent: list[Message] = []
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return parts.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        return int(sent[0]["status"]), b"".join(message.get("body", b"") for message in sent[1:])

    def is_foreign(self, number: int, body: bytes, status: int, answer: bytes) -> bool:
        """Whether an answer shows a row of another tenant, or anything that only such rows hold."""
        if status == 500:
            return True  # an answer that was withheld, or a mistake: neither is right
        found = json.loads(answer)
        lists = [found.get("results", []), *(one["results"] for one in found.get("answers", []))]
        results = [result for each in lists for result in each]
        self.results += len(results)
        own = MARK.format(number)
        if any(not (result["doc_id"].startswith(own) and own in result["text"]) for result in results):
            return True
        others = (MARK.format(other) for other in range(len(TENANTS) + 1) if other != number)
        return any(mark.encode() in answer and mark.encode() not in body for mark in others)

    def body(self) -> dict[str, Any]:
        """One request; most are valid, as only those reach Milvus."""
        choose, chance = self._random.choice, self._random.random
        body: dict[str, Any] = {"query": choose(["refund E1234", "q", ["refund", "E1234"], self._string() or "q"])}
        if chance() < 0.8:
            body["filter"] = self._node(3)
        if chance() < 0.5:
            body["limit"] = choose([1, 3, 10, 100])
        if chance() < 0.3:
            body["mode"] = choose(["dense", "keyword", "hybrid"])
        if chance() < 0.3:
            body["group_by"] = choose([None, "doc_id"])
        if chance() < 0.3:
            body["fields"] = [choose((*NAMES, self._string())) for _ in range(choose([0, 1, 2]))]
        if chance() < 0.3:
            body["time"] = choose([{"from": "2026-11-21"}, {"to": "2026-11-21"}, {"last": "36500d"}])
        if chance() < 0.2:
            body["recency"] = {"half_life": "7d", "weight": choose([0.3, 1.0])}
        if chance() < 0.2:
            body["min_score"] = choose([-1.0, 0.0, 0.5])
        if chance() < 0.02:
            body[choose(["tenant", "Tenant", "tenants", "expr", "filter_expression", "partition", "collection"])] = (
                self._string()
            )
        return body

    def _node(self, depth: int) -> dict[str, Any]:
        choose = self._random.choice
        if depth and self._random.random() < 0.4:
            inner = [self._node(depth - 1) for _ in range(choose([1, 2, 3]))]
            return {"type": choose(["and", "or"]), "filters": inner}
        operator = choose(COMPARISONS)
        key = choose(NAMES) if self._random.random() < 0.7 else self._string()
        value: Any = self._string() if self._random.random() < 0.6 else choose(TENANTS)
        if operator != "prefix" and self._random.random() < 0.15:
            value = choose([0, 1, -1.5, *([True] if operator in ("eq", "ne") else [])])
        if operator in ("in", "nin"):
            value = [value, choose(TENANTS)]
        return {"type": operator, "key": key, "value": value}

    def _string(self) -> str:
        number = self._random.randrange(len(TENANTS) + 1)
        stolen = f"{MARK.format(number)}{self._random.choice(('name', 'value', *DAYS))}"
        return self._random.choice((stolen, stolen, self._random.choice(TENANTS), *self._random.choices(HOSTILE, k=4)))


class East:
    """Embeds every text to the east."""

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[1, 0]] * len(texts), np.float32)


def attack(api: MilvusServerApi, collection: str, folder: Path, *, tries: int, seed: int) -> Attacker:
    """So many tries against the application over these rows; `folder` takes the file of keys."""
    path, now = folder / "keys.json", datetime.now(UTC)
    keys = []
    with change_keys(path) as stored:
        for number, tenant in enumerate(TENANTS):
            key, entry = new_key(f"{number}", scopes=("search",), tenant=tenant, rate=None, created=now, expires=None)
            keys.append(key)
            stored.append(entry)
    registry = CollectorRegistry()
    # Few whole rows at a time: most of them are read in a second call.
    searcher = Searcher(api, collection, SearchSettings(FetchSettings(whole_rows=16)))
    service = SearchService(searcher, East(), QueryMetrics(registry), concurrency=2)
    attacker = Attacker(create_app(service, dict, registry=registry, access=Access(KeyFile(path))), keys, seed)
    try:
        asyncio.run(attacker.attack(tries))
    finally:
        service.close()
    return attacker


def main() -> None:
    """Try as often as the argument says; exit 1 where something foreign was shown."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as folder:
        attacker = attack(fake(), COLLECTION, Path(folder), tries=int(sys.argv[1]), seed=random.randrange(2**32))
    sys.stdout.write(
        f"statuses {dict(attacker.statuses)}, results {attacker.results}, foreign {len(attacker.foreign)}\n"
    )
    sys.stdout.writelines(f"{example!r}\n" for example in attacker.foreign[:3])
    sys.exit(bool(attacker.foreign))


if __name__ == "__main__":
    main()
