"""kafka-python's log of a real outage: the patterns by which it is reduced are those of the version installed."""

import gc
import logging
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.errors import NoOffsetForPartitionError
from structlog.testing import capture_logs

from consumers.kafka.client.connection import KafkaSettings, open_admin, open_consumer
from consumers.local.kafka import LocalKafka
from consumers.local.server import free_ports
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.servers,
    # kafka-python leaves the sockets of refused connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:Exception ignored in.*socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collects these sockets here, where it is no failure, and not in whichever test comes next."""
    yield
    gc.collect()


def test_an_outage_is_one_line_at_each_end(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    settings = KafkaSettings(f"127.0.0.1:{port}", ("documents",), "log")
    received = Counter()
    logging.getLogger("kafka").addHandler(received)
    try:
        with capture_logs() as lines:
            kafka = LocalKafka(tmp_path, port)
            with kafka, closing(open_admin(settings)) as admin:
                admin.create_topics({"documents": {"num_partitions": 1}}, wait_for_metadata=True)
                consumer = open_consumer(settings, group=True)
                consumer.subscribe(["documents"])

                def assigned() -> bool:
                    with suppress(NoOffsetForPartitionError):
                        consumer.poll(100)
                    return bool(consumer.assignment())

                eventually(assigned, within=30, what="an assignment")
                consumer.seek(TopicPartition("documents", 0), 0)
                consumer.poll(100)
            with closing(consumer):
                before = received.lines

                def noisy() -> bool:
                    consumer.poll(200)
                    return received.lines > before + 30

                eventually(noisy, within=60, what="30 lines of kafka-python")
                with kafka:

                    def back() -> bool:
                        consumer.poll(200)
                        return bool(lines[-1]["event"] == "kafka.connected")

                    eventually(back, within=60, what="the end of the outage")
                    assert [line["event"] for line in lines if line["event"] != "kafka.client"] == [
                        "kafka.connection_lost",
                        "kafka.connected",
                    ]
                    assert [line for line in lines if line["event"] == "kafka.client"] == []
    finally:
        logging.getLogger("kafka").removeHandler(received)


class Counter(logging.Handler):
    """Counts the warnings and errors of kafka-python."""

    lines = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += record.levelno >= logging.WARNING
