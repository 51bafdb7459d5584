"""Fixtures every test may use: the servers, unique names and topics; how many examples; which worker runs what."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import hypothesis
import pytest
import structlog
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from consumers.kafka.client.internals import open_network
from tests.support import scheduling
from tests.support.log_text import LogText, configure
from tests.support.names import unique
from tests.support.servers import SharedServers

# Choose another one by HYPOTHESIS_PROFILE. Tests that need more or fewer examples than these take a multiple of them
# (`tests.support.examples`). `ci` makes the same examples in every run, so that what failed there fails here.
hypothesis.settings.register_profile("dev", max_examples=25, deadline=None, derandomize=False)
hypothesis.settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=5_000, deadline=None, derandomize=False, print_blob=True)
# For the mutation gate: nobody reads a failing example, so that it need not be made small.
hypothesis.settings.register_profile(
    "mutation",
    parent=hypothesis.settings.get_profile("ci"),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    database=None,
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") == "true" else "dev")
hypothesis.settings.load_profile(PROFILE)


_configure = structlog.configure


def _configure_uncached(**options: Any) -> None:
    """A logger that is cached would keep, for the tests after, the streams of the test that used it first."""
    _configure(**{**options, "cache_logger_on_first_use": False})


structlog.configure = _configure_uncached  # type: ignore[assignment]

# A socket that a test's own client leaves open fails whichever test runs when it is collected.
for client in (KafkaConsumer, KafkaProducer, KafkaAdminClient):
    client.DEFAULT_CONFIG["kafka_client"] = open_network


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a command that ran inside a test has set up for its process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    if structlog.is_configured():
        root.handlers, root.level = handlers, level
        structlog.reset_defaults()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> scheduling.GroupScheduling:
    """Whole groups of tests go to a worker."""
    return scheduling.GroupScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the workers begin with what takes longest."""
    if hasattr(config, "workerinput"):
        scheduling.longest_first(items)
    if PROFILE == "nightly":
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SharedServers:
    """The servers of this run, whichever worker started them."""
    folder = tmp_path_factory.getbasetemp()
    shared = SharedServers(folder.parent if hasattr(request.config, "workerinput") else folder)
    # Not as this fixture's end: that is part of the last test, whose time would go by while other workers go on.
    request.config.add_cleanup(shared.close)
    return shared


@pytest.fixture(scope="session")
def kafka_bootstrap(servers: SharedServers) -> str:
    """`host:port` of a real Apache Kafka."""
    return servers.kafka()


@pytest.fixture(scope="session")
def milvus_uri(servers: SharedServers) -> str:
    """Address of a real Milvus server (2.3.5 or newer)."""
    return servers.milvus()


@pytest.fixture(scope="session")
def milvus_lite_uri(servers: SharedServers) -> str:
    """Address of a Milvus Lite server."""
    return servers.milvus_lite()


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
def log_text() -> LogText:
    """`log_text(style)`: what the process logs from here on, until `logging_as_it_was`."""
    return configure
