"""Freshness over HTTP: what an answer says, the state of the consumer group, and records that are late."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from consumers.query.app import create_app
from pipeline.errors import Unavailable, UsageError
from pipeline.query import FreshnessWatch, Searcher, SearchService
from pipeline.query.freshness.watch import TTL_S
from pipeline.telemetry import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.fakes.offsets import FakeOffsets
from tests.support.rigs.page import keys as page_keys
from tests.support.rigs.search import COLLECTION, Clock, Library
from tests.support.rigs.served import East
from tests.support.waiting import eventually


class Site:
    def __init__(self, milvus: FakeMilvus, offsets: FakeOffsets | None) -> None:
        self.clock = Clock()
        watch = FreshnessWatch(milvus, COLLECTION, offsets, clock=self.clock)
        self.service = SearchService(
            Searcher(milvus, COLLECTION), East(), QueryMetrics(CollectorRegistry()), freshness=watch
        )
        self.app = create_app(self.service, dict, registry=CollectorRegistry())

    def call(self, method: str, path: str, times: int = 1, **options: Any) -> list[httpx.Response]:
        """The answers to so many requests at a time."""

        async def all_of_them() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await asyncio.gather(*(client.request(method, path, **options) for _ in range(times)))

        return asyncio.run(all_of_them())

    def freshness(self) -> httpx.Response:
        return self.call("GET", "/v1/freshness")[0]

    def search(self, **body: object) -> httpx.Response:
        return self.call("POST", "/v1/search", json={"query": "q", **body})[0]


@pytest.fixture
def offsets() -> FakeOffsets:
    made = FakeOffsets(partitions=2)
    made.ends = {("topic", 0): 10, ("topic", 1): 3}
    made.commits = {("topic", 0): 10}
    return made


@pytest.fixture
def site(milvus: FakeMilvus, offsets: FakeOffsets) -> Iterator[Site]:
    made = Site(milvus, offsets)
    yield made
    offsets.free.set()
    made.service.close()


def test_the_state_of_every_kafka_partition(site: Site, library: Library, offsets: FakeOffsets) -> None:
    library.put("a", 0.0, "2026-11-22")
    assert site.freshness().json() == {
        "event_time": "2026-11-22T00:00:00Z",
        "lag_s": None,
        "group": "group",
        "lag": 3,
        "partitions": [
            {"topic": "topic", "partition": 0, "committed": 10, "end": 10, "lag": 0, "lag_s": 0.0},
            {"topic": "topic", "partition": 1, "committed": None, "end": 3, "lag": 3, "lag_s": None},
        ],
    }
    offsets.commits[("topic", 1)] = 3
    site.clock.now += TTL_S
    assert (site.freshness().json()["lag"], site.freshness().json()["lag_s"]) == (0, 0.0)


def test_a_tenant_learns_neither_times_nor_offsets_of_others(
    site: Site, library: Library, offsets: FakeOffsets, tmp_path: Path
) -> None:
    library.put("a", 0.0, "2026-11-22", tenant="globex")
    offsets.commits[("topic", 1)] = 3
    access, keys = page_keys(tmp_path / "keys.json")
    site.app = create_app(site.service, dict, registry=CollectorRegistry(), access=access)
    headers = {"authorization": f"Bearer {keys['acme']}"}
    answer = site.call("GET", "/v1/freshness", headers=headers)[0].json()
    assert answer == {"event_time": None, "lag_s": 0.0, "group": None, "lag": None, "partitions": None}
    body = site.call("POST", "/v1/search", json={"query": "q"}, headers=headers)[0].json()
    assert body["freshness"] == {"event_time": None, "lag_s": 0.0}


def test_kafka_is_read_once_a_second_whatever_clients_do(site: Site, offsets: FakeOffsets) -> None:
    assert {answer.status_code for answer in site.call("GET", "/v1/freshness", times=50)} == {200}
    site.freshness()
    assert (offsets.reads, offsets.range_reads) == (1, 1)
    site.clock.now += TTL_S
    site.freshness()
    assert (offsets.reads, offsets.range_reads) == (2, 2)


def test_every_answer_says_how_fresh_the_collection_was_read_last(
    site: Site, library: Library, offsets: FakeOffsets
) -> None:
    library.put("a", 0.0, "2026-11-22")
    offsets.commits[("topic", 1)] = 3
    assert site.search().json()["freshness"] == {"event_time": None, "lag_s": None}
    known = {"event_time": "2026-11-22T00:00:00Z", "lag_s": 0.0}
    eventually(lambda: site.search().json()["freshness"] == known)
    many = site.search(query=["q", "r"]).json()
    assert many["freshness"] == known


def test_no_search_waits_for_a_kafka_that_hangs(site: Site, library: Library, offsets: FakeOffsets) -> None:
    library.put("a", 0.0)
    offsets.free.clear()
    known = "2026-11-22T00:00:00Z"
    eventually(lambda: site.search().json()["freshness"]["event_time"] == known)
    assert site.search().json()["freshness"] == {"event_time": known, "lag_s": None}


def test_without_kafka_only_the_event_time_is_known(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    site = Site(milvus, None)
    try:
        answer = site.freshness().json()
        assert answer.pop("event_time") == "2026-11-22T00:00:00Z"
        assert set(answer.values()) == {None}
        wait = {"wait_for": [{"topic": "topic", "partition": 0, "offset": 1}]}
        refused = site.search(freshness=wait)
        assert (refused.status_code, refused.json()["at"]) == (422, "/freshness/wait_for")
    finally:
        site.service.close()


def test_a_late_record_is_answered_503_with_what_is_missing(site: Site, offsets: FakeOffsets) -> None:
    offsets.commits[("topic", 1)] = 1
    wait = [{"topic": "topic", "partition": 0, "offset": 9}, {"topic": "topic", "partition": 1, "offset": 2}]
    with structlog.testing.capture_logs() as logs:
        response = site.search(freshness={"wait_for": wait, "timeout_ms": 50})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    body = response.json()
    assert body["type"] == "urn:milvus-stream:problem:not-fresh"
    assert body["behind"] == [{"topic": "topic", "partition": 1, "offset": 2, "committed": 1, "missing": 2}]
    (line,) = [line for line in logs if line["event"] == "search.failed"]
    assert (line["problem"], line["behind"]) == ("not-fresh", body["behind"])


@pytest.mark.parametrize(
    ("error", "code"),
    [(Unavailable("broker:9092"), "offsets-unavailable"), (UsageError("broker:9092"), "misconfigured")],
)
def test_a_kafka_that_gives_no_answer_is_503(site: Site, offsets: FakeOffsets, error: Exception, code: str) -> None:
    offsets.error = error
    answer = site.freshness()
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (503, code)
    assert "broker" not in answer.text
    assert site.search().status_code == 200


def test_a_search_that_cannot_read_offsets_says_so(site: Site, offsets: FakeOffsets) -> None:
    offsets.error = Unavailable("broker:9092 is away")
    wait = [{"topic": "topic", "partition": 0, "offset": 9}]
    answer = site.search(freshness={"wait_for": wait, "timeout_ms": 50})
    assert answer.status_code == 503
    assert answer.json()["type"] == "urn:milvus-stream:problem:offsets-unavailable"
    assert "broker" not in answer.text
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("freshness", "at"),
    [
        (1, "/freshness"),
        ({"level": "eventual"}, "/freshness/level"),
        ({"wait": []}, "/freshness/wait"),
        ({"wait_for": {}}, "/freshness/wait_for"),
        ({"wait_for": [1]}, "/freshness/wait_for/0"),
        ({"wait_for": [{"topic": "topic", "partition": 0}]}, "/freshness/wait_for/0/offset"),
        ({"wait_for": [{"topic": "topic", "partition": 0, "offset": -1}]}, "/freshness/wait_for/0/offset"),
        ({"wait_for": [{"topic": "topic", "partition": 0, "offset": 2**63 - 1}]}, "/freshness/wait_for/0/offset"),
        ({"wait_for": [{"topic": "topic", "partition": 2**31, "offset": 1}]}, "/freshness/wait_for/0/partition"),
        ({"wait_for": [{"topic": "topic", "partition": True, "offset": 1}]}, "/freshness/wait_for/0/partition"),
        ({"wait_for": [{"topic": "topic", "partition": 2, "offset": 1}]}, "/freshness/wait_for/0/partition"),
        ({"wait_for": [{"topic": "t" * 250, "partition": 0, "offset": 1}]}, "/freshness/wait_for/0/topic"),
        ({"wait_for": [{"topic": "", "partition": 0, "offset": 1}]}, "/freshness/wait_for/0/topic"),
        ({"wait_for": [{"topic": "other", "partition": 0, "offset": 1}]}, "/freshness/wait_for/0/topic"),
        ({"wait_for": [{"topic": "topic", "partition": 0, "offset": 1}] * 65}, "/freshness/wait_for"),
        ({"timeout_ms": 0}, "/freshness/timeout_ms"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_by_its_pointer(site: Site, freshness: object, at: str) -> None:
    response = site.search(freshness=freshness)
    assert (response.status_code, response.json().get("at")) == (422, at), response.text


@pytest.mark.parametrize("freshness", [None, {}, {"wait_for": []}, {"level": "strong", "timeout_ms": None}], ids=str)
def test_freshness_may_be_left_out_in_parts(site: Site, freshness: object) -> None:
    assert site.search(freshness=freshness).status_code == 200


def test_the_openapi_document_has_the_route_and_its_schemas(site: Site) -> None:
    document = site.call("GET", "/openapi.json")[0].json()
    assert "/v1/freshness" in document["paths"]
    schemas = document["components"]["schemas"]
    assert {"FreshnessOptions", "AwaitedOffset", "FreshnessReport"} <= schemas.keys()
    assert np.all([name in schemas["AwaitedOffset"]["properties"] for name in ("topic", "partition", "offset")])
