"""The page as it is composed: whether there is one, and what it reads."""

import asyncio
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.query.access import Access
from consumers.query.web import Page
from consumers.wiring import page as page_module
from consumers.wiring.page import KnownFreshness, page
from consumers.wiring.searches import search_service, searcher
from pipeline.query import FreshnessWatch
from pipeline.telemetry import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.fakes.offsets import FakeOffsets


def composed(**options: object) -> Page | None:
    settings = Settings.model_validate(options)
    api = FakeMilvus()
    search = searcher(settings, api, None)
    with closing(search_service(settings, search, None, QueryMetrics(CollectorRegistry()))) as service:
        return page(settings, api, search, service, Access())


def test_it_is_there_unless_it_is_switched_off() -> None:
    made = composed()
    assert made is not None
    made.close()
    assert composed(query={"page": False}) is None


def test_kafka_is_read_only_where_it_is_configured() -> None:
    without, configured = composed(), composed(kafka={"bootstrap_servers": "localhost:9092"})
    assert without is not None
    assert configured is not None
    assert without._pipeline is None
    assert configured._pipeline is not None
    without.close()
    configured.close()


def test_a_page_does_not_wait_for_a_kafka_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "_LONGEST_S", 0.01)
    offsets = FakeOffsets()
    offsets.free.clear()
    with closing(FreshnessWatch(FakeMilvus(), "documents", offsets)) as watch:
        known = asyncio.run(asyncio.wait_for(KnownFreshness(watch).freshness(), 5))
        assert (known.searchable_until_ms, known.lag_records) == (None, None)
        assert "does not answer" in known.problem
        offsets.free.set()
