"""A Milvus in memory in the place of the configured one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from consumers.config import Settings, load_settings
from consumers.wiring import connections
from pipeline.store.milvus.api import ServerInfo
from tests.support.fakes.milvus import FakeMilvus


@pytest.fixture
def milvus(monkeypatch: pytest.MonkeyPatch) -> FakeMilvus:
    fake = FakeMilvus(server=ServerInfo("v2.6.22", (2, 6, 22), lite=False))

    @contextmanager
    def connected(_: Settings, *, fail_fast: bool = False) -> Iterator[FakeMilvus]:
        yield fake

    monkeypatch.setattr(connections, "milvus", connected)
    return fake


@pytest.fixture
def settings() -> Settings:
    """Nothing listens at this Kafka."""
    sets = ["kafka.bootstrap_servers=kafka.invalid:9092", "kafka.bootstrap_timeout_ms=200", "embedding.model=hash:8"]
    return load_settings(None, {}, [*sets, "milvus.collection=news"])
