"""What is passed on of kafka-python's log."""

import logging
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from consumers.kafka.client.client_log import QUIET_S, ClientLog


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Client:
    """Logs as kafka-python does."""

    def __init__(self, name: str) -> None:
        self.clock = Clock()
        self.handler = ClientLog(self.clock)
        self.handler.servers = "kafka.example:9092"
        self.logger = logging.getLogger(name)
        self.logger.propagate = False
        self.logger.setLevel(logging.INFO)
        self.logger.handlers = [self.handler]

    def fails(self, times: int = 1) -> None:
        for _ in range(times):
            self.logger.error("Connection failed: %s", "111 ECONNREFUSED")
            self.logger.error("%s: Connection lost: %s", "node", "111 ECONNREFUSED")
            self.logger.warning("Bootstrap %s not ready; waiting %.2f secs", "bootstrap-0", 0.1)
            self.clock.now += 0.125

    def connects(self) -> None:
        self.logger.info("%s: Initializing", "node")
        self.logger.info("%s: Connected", "node")


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Client:
    return Client(request.node.name)


@pytest.fixture
def lines() -> Iterator[list[EventDict]]:
    with capture_logs() as captured:
        yield captured


def test_an_outage_is_one_line_at_each_end(client: Client, lines: list[EventDict]) -> None:
    client.connects()
    client.fails(times=480)
    client.connects()
    client.connects()
    lost, connected = lines
    assert (lost["event"], lost["servers"]) == ("kafka.connection_lost", "kafka.example:9092")
    assert lost["why"] == "Connection failed: 111 ECONNREFUSED"
    assert (connected["event"], connected["after_s"]) == ("kafka.connected", 60.0)
    assert connected["lines_left_out"] == 3 * 480 - 1


def test_one_of_several_brokers_away_is_two_lines_a_minute(client: Client, lines: list[EventDict]) -> None:
    for _ in range(1_440):  # three minutes in which the others answer all the time
        client.fails()
        client.connects()
    assert [line["event"] for line in lines] == ["kafka.connection_lost", "kafka.connected"] * 3


def test_the_next_outage_is_news_after_a_minute(client: Client, lines: list[EventDict]) -> None:
    for _ in range(2):
        client.fails()
        client.connects()
        client.clock.now += QUIET_S
    assert [line["event"] for line in lines] == ["kafka.connection_lost", "kafka.connected"] * 2


def test_other_lines_are_passed_on_and_repeated_once_a_minute(client: Client, lines: list[EventDict]) -> None:
    for _ in range(961):
        client.logger.error("Not authorized to commit to topics %s for group %s", "a", "g")
        client.clock.now += 0.125
    assert [line["says"] for line in lines] == ["Not authorized to commit to topics a for group g"] * 3
    assert [line["repeats_left_out"] for line in lines[:2]] == [0, 479]
    assert {line["log_level"] for line in lines} == {"error"}


def test_an_outage_hides_nothing_else(client: Client, lines: list[EventDict]) -> None:
    client.fails(times=3)
    client.logger.error("%s: SaslHandshake failed: %s", "node", "UnsupportedSaslMechanismError")
    assert lines[-1]["says"] == "node: SaslHandshake failed: UnsupportedSaslMechanismError"


def test_messages_that_are_no_templates_fill_no_memory(client: Client, lines: list[EventDict]) -> None:
    for number in range(10_000):
        client.logger.error(f"something {number}")
    assert len(client.handler._last) <= 256
    assert len(lines) == 10_000
