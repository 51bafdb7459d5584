"""Fixtures every test may use: the servers, unique names and topics."""

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.support import servers
from tests.support.log_text import LogText, captured
from tests.support.names import unique


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a real Apache Kafka."""
    with servers.kafka(tmp_path_factory.mktemp("kafka")) as address:
        yield address


@pytest.fixture(scope="session")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Milvus server (2.3.5 or newer)."""
    with servers.milvus(tmp_path_factory.mktemp("milvus")) as address:
        yield address


@pytest.fixture(scope="session")
def milvus_lite_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Milvus Lite server."""
    with servers.milvus_lite(tmp_path_factory.mktemp("milvus-lite")) as address:
        yield address


@pytest.fixture
def unique_name() -> Callable[..., str]:
    """`unique_name(prefix)`: a name for a topic, group or collection that nothing else uses."""
    return unique


@pytest.fixture
def make_topic(kafka_bootstrap: str) -> Iterator[Callable[..., str]]:
    """`make_topic(partitions=1, prefix="topic", configs={...})` creates a topic, deleted after the test."""
    from kafka.admin import KafkaAdminClient

    created: list[str] = []
    with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin:

        def make(partitions: int = 1, *, prefix: str = "topic", configs: dict[str, str] | None = None) -> str:
            name = unique(prefix)
            admin.create_topics(
                {name: {"num_partitions": partitions, "replication_factor": 1, "configs": configs or {}}}
            )
            created.append(name)
            return name

        yield make
        if left := sorted(set(created) & set(admin.list_topics())):
            admin.delete_topics(left)


@pytest.fixture
def log_text() -> Iterator[LogText]:
    """`log_text(style)`: what the process logs from here on."""
    with captured() as configure:
        yield configure
