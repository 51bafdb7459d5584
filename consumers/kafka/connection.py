"""How to reach Kafka: the settings, checked once, and the three kafka-python clients made from them."""

import difflib
import logging
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.errors import (
    AuthorizationError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
    KafkaConfigurationError,
    KafkaError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

from consumers.kafka.batches import ReadLimits
from consumers.kafka.internals import UnreadableBatch, bound, check_client
from pipeline.errors import MilvusStreamError, Unavailable, UsageError

T = TypeVar("T")

BOOTSTRAP_S = 30
"""How long a broker may take to answer at the start."""

ASSIGNORS: Mapping[str, Any] = {
    "cooperative-sticky": CooperativeStickyAssignor,
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
}

_OWNED: Mapping[str, str] = {
    "bootstrap_servers": "kafka.bootstrap_servers",
    "group_id": "kafka.group_id",
    "session_timeout_ms": "kafka.session_timeout",
    "max_poll_records": "batch.max_records",
    "partition_assignment_strategy": "kafka.assignor",
    "auto_offset_reset": "kafka.start_from",
} | dict.fromkeys(
    (
        "enable_auto_commit",
        "auto_commit_interval_ms",
        "default_offset_commit_callback",
        "allow_auto_create_topics",
        "consumer_timeout_ms",
        "key_deserializer",
        "value_deserializer",
        "key_serializer",
        "value_serializer",
        "partitioner",
        "acks",
        "enable_idempotence",
        "transactional_id",
        "transaction_timeout_ms",
        "max_in_flight_requests_per_connection",
        "kafka_client",
        "selector",
        "metric_reporters",
        "ssl_context",
        "sasl_oauth_token_provider",
    ),
    "",
)
"""Options that are not the user's to set, and the setting to use instead; no loss rests on most of them."""


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """How to reach Kafka and what to read. Raises UsageError for an option that kafka-python does not know."""

    bootstrap_servers: str
    topics: tuple[str, ...]
    group_id: str
    start_from: str = "earliest"
    """earliest | latest | an RFC 3339 time; acts on a group's very first start only."""
    session_timeout_ms: int = 45_000
    max_poll_records: int = 1_000
    assignor: Literal["cooperative-sticky", "range", "roundrobin"] = "cooperative-sticky"
    buffer_bytes: int = 64 * 2**20
    """What fetches, polls and the unpacking of batches may hold follows from this."""
    max_record_bytes: int = 2**20
    """A larger record is dead-lettered; where it comes compressed it may be cut."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Every further option of kafka-python by its own name: security_protocol, ssl_*, sasl_*, client_id …"""

    def __post_init__(self) -> None:
        start_timestamp_ms(self.start_from)
        object.__setattr__(self, "options", {name: _checked(name, value) for name, value in self.options.items()})

    @property
    def max_poll_interval_ms(self) -> int:
        """How long a member may stay away from poll before the group goes on without it."""
        return int(self.options.get("max_poll_interval_ms", KafkaConsumer.DEFAULT_CONFIG["max_poll_interval_ms"]))


def start_timestamp_ms(start_from: str) -> int | None:
    """Epoch milliseconds of `start_from`, None for earliest and latest. Raises UsageError for anything else."""
    if start_from in ("earliest", "latest"):
        return None
    try:
        moment = datetime.fromisoformat(start_from)
    except ValueError:
        raise UsageError(
            f"kafka.start_from is {start_from!r}; write earliest, latest or a time such as 2026-11-23T00:00:00Z"
        ) from None
    milliseconds = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    if milliseconds < 0:
        raise UsageError(f"kafka.start_from is {start_from!r}, which is before 1970: write earliest")
    return milliseconds


def open_consumer(settings: KafkaSettings, *, group: bool, on_join: Callable[[], None] = lambda: None) -> KafkaConsumer:
    """A consumer that commits and resets nothing by itself; `group` False: it joins no group.

    `on_join` is called, on the client's IO thread, immediately before it asks to join.
    Raises Unavailable when no broker answers, UsageError for what the broker or the client refuses, or for a codec
    whose package is missing.
    """
    check_client()
    limits = ReadLimits(settings.buffer_bytes, settings.max_record_bytes)
    config: dict[str, Any] = {
        "client_id": "milvus-stream",
        # A record of an aborted transaction was never published; it must not become searchable.
        "isolation_level": "read_committed",
        "reconnect_backoff_max_ms": 1_000,
        "fetch_max_bytes": limits.fetch_bytes,
        "heartbeat_interval_ms": min(3_000, settings.session_timeout_ms // 3),
        **_for_client(settings, KafkaConsumer.DEFAULT_CONFIG),
        "session_timeout_ms": settings.session_timeout_ms,
        "max_poll_records": settings.max_poll_records,
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "partition_assignment_strategy": [_telling(ASSIGNORS[settings.assignor], on_join)],
        "group_id": settings.group_id if group else None,
    }
    if not group:
        config.pop("group_instance_id", None)
    consumer = _open(KafkaConsumer, settings, config)
    bound(consumer, limits)
    return consumer


def _telling(assignor: type[Any], on_join: Callable[[], None]) -> Any:
    """The assignor, which the client asks for its metadata each time that it joins, telling of that."""

    class RecordingAssignor(assignor):  # type: ignore[misc]
        def metadata(self, topics: Any) -> Any:
            on_join()
            return super().metadata(topics)

    return RecordingAssignor()


def open_producer(settings: KafkaSettings, **config: Any) -> KafkaProducer:
    """A producer whose sends are confirmed by every in-sync replica, one request at a time.

    Without idempotence: after one refused record an idempotent kafka-python producer fails every later send.
    Raises Unavailable when no broker answers, UsageError for what the broker or the client refuses.
    """
    return _open(
        KafkaProducer,
        settings,
        {
            "client_id": "milvus-stream",
            "reconnect_backoff_max_ms": 1_000,
            "request_timeout_ms": 10_000,
            "delivery_timeout_ms": 15_000,
            "max_block_ms": 10_000,
            **_for_client(settings, KafkaProducer.DEFAULT_CONFIG),
            "acks": "all",
            "enable_idempotence": False,
            "max_in_flight_requests_per_connection": 1,
            "allow_auto_create_topics": False,
            **config,
        },
    )


def open_admin(settings: KafkaSettings) -> KafkaAdminClient:
    """An admin client. Raises Unavailable when no broker answers, UsageError for what is refused."""
    config = {"client_id": "milvus-stream", "reconnect_backoff_max_ms": 1_000}
    return _open(KafkaAdminClient, settings, config | _for_client(settings, KafkaAdminClient.DEFAULT_CONFIG))


@contextmanager
def kafka_errors(doing: str) -> Iterator[None]:
    """Translate kafka-python's errors: UsageError where somebody must change something, else Unavailable."""
    try:
        yield
    except MilvusStreamError:
        raise
    except (KafkaError, ssl.SSLError, OSError, ValueError, AssertionError) as error:
        raise translated(error, doing) from error


def translated(error: BaseException, doing: str) -> MilvusStreamError:
    """The error to raise instead of one of kafka-python's."""
    if isinstance(error, UnreadableBatch):
        return MilvusStreamError(str(error))
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, _REFUSALS) or (not isinstance(error, KafkaError) and not isinstance(error, TimeoutError)):
        return UsageError(f"Kafka refused {doing}: {why}. Check kafka.* in the configuration and the broker's ACLs")
    return Unavailable(f"Kafka cannot be used for {doing}: {why}")


_REFUSALS = (
    AuthorizationError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidSessionTimeoutError,
    InvalidTopicError,
    KafkaConfigurationError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)


def _open(make: Callable[..., T], settings: KafkaSettings, config: Mapping[str, Any]) -> T:
    opened: list[Any] = []

    def network(**configs: Any) -> Any:
        opened.append(KafkaConsumer.DEFAULT_CONFIG["kafka_client"](**configs))
        return opened[0]

    logger = logging.getLogger("kafka")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)
    config = {"bootstrap_timeout_ms": BOOTSTRAP_S * 1000, **config}
    try:
        with kafka_errors(f"a connection to {settings.bootstrap_servers}"):
            return make(
                bootstrap_servers=[part.strip() for part in settings.bootstrap_servers.split(",")],
                kafka_client=network,
                **config,
            )
    except MilvusStreamError:
        # A client whose constructor fails leaves its IO thread running and trying for ever.
        for client in opened:
            client.close()
        raise


def _for_client(settings: KafkaSettings, known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.options.items() if name in known}


def _checked(name: str, value: Any) -> Any:
    """Refuse what kafka-python does not know or what is not the user's to set; text becomes the default's type."""
    known: dict[str, Any] = {
        **KafkaAdminClient.DEFAULT_CONFIG,
        **KafkaProducer.DEFAULT_CONFIG,
        **KafkaConsumer.DEFAULT_CONFIG,
    }
    if name in _OWNED:
        instead = f"; set {_OWNED[name]} instead" if _OWNED[name] else ": milvus-stream sets it itself"
        raise UsageError(f"kafka.{name} cannot be set{instead}")
    if name not in known:
        near = difflib.get_close_matches(name, [key for key in known if key not in _OWNED], n=1)
        hint = f"; did you mean {near[0]}?" if near else "; see the options of kafka-python's KafkaConsumer"
        raise UsageError(f"kafka.{name} is not a setting and not an option of kafka-python{hint}")
    default = known[name]
    if not isinstance(value, str) or isinstance(default, str) or default is None:
        return value
    if isinstance(default, bool):
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise UsageError(f"kafka.{name} is {value!r}; write true or false")
    if isinstance(default, int | float):
        try:
            return int(value)
        except ValueError:
            raise UsageError(f"kafka.{name} is {value!r}; write a whole number") from None
    return value
