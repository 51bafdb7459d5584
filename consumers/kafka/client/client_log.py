"""The log of kafka-python, reduced to what changes.

The client logs every attempt to reach a broker: 600 lines a minute while Kafka is away. Here an outage is two lines,
one at its begin and one at its end, and any other line is repeated once a minute at most.
"""

import logging
import re
import time
from collections.abc import Callable

import structlog

QUIET_S = 60.0
"""Least time between two lines that say the same."""
_MOST_TEMPLATES = 256
_CONNECTED = "%s: Connected"
_CONNECTION_LOGGER = "kafka.net.connection"
_ATTEMPTS = re.compile(
    r"Connection failed|%s: Connection lost|Bootstrap |%s: socket disconnected|%s: Error (receiving|sending)|%s: Abort"
    r"|%s: Request timed out|DNS lookup failed|No node available|No broker metadata|Metadata refresh"
    r"|Fetch to node %s failed|Marking the coordinator dead|Group Coordinator Request failed|Error sending %s to node"
    r"|Heartbeat failed for group %s: coordinator|Heartbeat session expired"
)
"""What is logged of connections, as kafka-python 3.0 writes it."""

log = structlog.get_logger(__name__)


class ClientLog(logging.Handler):
    """Takes the lines of kafka-python's loggers and passes on changes.

    One for the whole process: its clients lose and find the same brokers. With several brokers of which one is away,
    the two lines of its outage come once a minute.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.INFO)
        self.servers = ""
        """`kafka.bootstrap_servers`, for the lines."""
        self._clock = clock
        self._away_since: float | None = None
        self._hidden = 0
        self._last: dict[str, float] = {}
        self._repeats: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on the record, if it is news. The caller holds the handler's lock."""
        template = str(record.msg)
        if record.levelno < logging.WARNING:
            if template == _CONNECTED:
                self._connected()
        elif _ATTEMPTS.match(template):
            self._lost(record)
        else:
            self._other(record, template)

    def _lost(self, record: logging.LogRecord) -> None:
        if self._away_since is not None or not self._due("connections"):
            self._hidden += 1
            return
        self._away_since = self._clock()
        log.warning(
            "kafka.connection_lost",
            servers=self.servers,
            why=record.getMessage(),
            what="tried again until it answers; if it never did, check kafka.bootstrap_servers",
        )

    def _connected(self) -> None:
        if self._away_since is None:
            return
        log.info("kafka.connected", after_s=round(self._clock() - self._away_since, 1), lines_left_out=self._hidden)
        self._away_since, self._hidden = None, 0

    def _other(self, record: logging.LogRecord, template: str) -> None:
        key = f"{record.name} {template}"
        if not self._due(key):
            self._repeats[key] = self._repeats.get(key, 0) + 1
            return
        log.log(
            record.levelno,
            "kafka.client",
            logger=record.name,
            says=record.getMessage(),
            repeats_left_out=self._repeats.pop(key, 0),
            exc_info=record.exc_info,
        )

    def _due(self, key: str) -> bool:
        """Whether a line of this kind may be written now."""
        now = self._clock()
        if now - self._last.get(key, -QUIET_S) < QUIET_S:
            return False
        if len(self._last) >= _MOST_TEMPLATES:  # messages that are no templates
            self._last.clear()
            self._repeats.clear()
        self._last[key] = now
        return True


_handler = ClientLog()


def reduce_client_log(servers: str) -> None:
    """Let kafka-python's lines go through one `ClientLog`; the level that somebody gave its loggers stays."""
    _handler.servers = servers
    client = logging.getLogger("kafka")
    if client.level == logging.NOTSET:
        client.setLevel(logging.WARNING)
        logging.getLogger(_CONNECTION_LOGGER).setLevel(logging.INFO)  # it says that a connection is there
    if _handler not in client.handlers:
        client.addHandler(_handler)
        client.propagate = False
