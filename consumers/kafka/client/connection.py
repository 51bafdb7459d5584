"""Connections to Kafka: the settings, checked once, and the three kafka-python clients made from them."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.errors import KafkaTimeoutError

from consumers.kafka.client.client_log import reduce_client_log
from consumers.kafka.client.errors import kafka_errors
from consumers.kafka.client.internals import bound_reads, check_client, open_network
from consumers.kafka.records.batches import ReadLimits
from pipeline.errors import MilvusStreamError, Unavailable, UsageError
from pipeline.timestamps import rfc3339_microseconds

T = TypeVar("T")

BOOTSTRAP_S = 30
"""Time in which a broker must answer at the start."""

ASSIGNORS: Mapping[str, Any] = {
    "cooperative-sticky": CooperativeStickyAssignor,
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
}

STATIC_LEASE_S = 15.0
"""How long a static member may write after a heartbeat, and how long its replacement waits before it takes over."""

_MOST_STATIC_INTERVAL_MS = 5_000
"""Longer pauses between heartbeats would leave calls of a static member too little time."""

_RESERVED: Mapping[str, str] = {
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
"""Options of kafka-python that this program sets itself, and the setting to use instead, if there is one."""


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The brokers, topics and group. Raises UsageError for an option that kafka-python does not know."""

    bootstrap_servers: str
    topics: tuple[str, ...]
    group_id: str
    start_from: str = "earliest"
    """earliest | latest | an RFC 3339 time; applies only to the first start of a group."""
    session_timeout_ms: int = 45_000
    max_poll_records: int = 1_000
    assignor: Literal["cooperative-sticky", "range", "roundrobin"] = "cooperative-sticky"
    buffer_bytes: int = 64 * 2**20
    """The memory limits of fetches, polls and unpacking follow from this."""
    max_record_bytes: int = 2**20
    """A larger record is dead-lettered; a compressed one may be cut while it is unpacked."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further options of kafka-python by their own names: security_protocol, ssl_*, sasl_*, client_id …"""

    def __post_init__(self) -> None:
        start_timestamp_ms(self.start_from)
        object.__setattr__(self, "options", {name: _checked(name, value) for name, value in self.options.items()})
        interval_ms = self.options.get("heartbeat_interval_ms", 0)
        if self.is_static and interval_ms > _MOST_STATIC_INTERVAL_MS:
            raise UsageError(
                f"kafka.heartbeat_interval_ms is {interval_ms}; with kafka.group_instance_id write at most "
                f"{_MOST_STATIC_INTERVAL_MS}: a static member may write for {STATIC_LEASE_S:.0f} s after a heartbeat"
            )

    @property
    def max_poll_interval_ms(self) -> int:
        """The longest time between two polls of a member before the group goes on without it."""
        return int(self.options.get("max_poll_interval_ms", KafkaConsumer.DEFAULT_CONFIG["max_poll_interval_ms"]))

    @property
    def is_static(self) -> bool:
        """Whether another process can take this member's id, and its Kafka partitions with it, at any time."""
        return self.options.get("group_instance_id") is not None

    @property
    def lease_s(self) -> float:
        """Seconds after an answered heartbeat in which no other worker can own this member's Kafka partitions."""
        session_s = self.session_timeout_ms / 1000
        return min(session_s, STATIC_LEASE_S) if self.is_static else session_s


def start_timestamp_ms(start_from: str) -> int | None:
    """Return `start_from` in epoch milliseconds, None for earliest and latest. Raises UsageError for anything else."""
    if start_from in ("earliest", "latest"):
        return None
    try:
        milliseconds = rfc3339_microseconds(start_from) // 1000
    except ValueError:
        raise UsageError(
            f"kafka.start_from is {start_from!r}; write earliest, latest or a time such as 2026-11-23T00:00:00Z"
        ) from None
    if milliseconds < 0:
        raise UsageError(f"kafka.start_from is {start_from!r}, which is before 1970: write earliest")
    return milliseconds


def open_consumer(
    settings: KafkaSettings,
    *,
    group: bool,
    assignor: type[Any] | None = None,
    on_join: Callable[[], None] = lambda: None,
) -> KafkaConsumer:
    """Open a consumer that never commits or resets by itself; `group` False: without a group.

    `assignor`: instead of the configured one. `on_join` is called on the client's IO thread immediately before each
    request to join. Raises Unavailable if no
    broker answers, UsageError if the broker or the client refuses an option or the package of a codec is missing.
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
        "partition_assignment_strategy": [_recording(assignor or ASSIGNORS[settings.assignor], on_join)],
        "group_id": settings.group_id if group else None,
    }
    if not group:
        config.pop("group_instance_id", None)
    consumer = _open(KafkaConsumer, settings, config)
    bound_reads(consumer, limits)
    return consumer


def _recording(assignor: type[Any], on_join: Callable[[], None]) -> Any:
    """Wrap an assignor so that `on_join` is called: the client reads its metadata each time it joins."""

    class RecordingAssignor(assignor):  # type: ignore[misc]
        def metadata(self, topics: Any) -> Any:
            on_join()
            return super().metadata(topics)

    return RecordingAssignor()


def open_producer(settings: KafkaSettings, **config: Any) -> KafkaProducer:
    """Open a producer whose sends are confirmed by all in-sync replicas, one request at a time.

    It is not idempotent: after one refused record an idempotent kafka-python producer fails every later send. Raises
    Unavailable if no broker answers, UsageError if the broker or the client refuses an option.
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
    """Open an admin client. Raises Unavailable if no broker answers, UsageError if an option is refused."""
    config = {"client_id": "milvus-stream", "reconnect_backoff_max_ms": 1_000}
    return _open(KafkaAdminClient, settings, config | _for_client(settings, KafkaAdminClient.DEFAULT_CONFIG))


def _open(make: Callable[..., T], settings: KafkaSettings, config: Mapping[str, Any]) -> T:
    networks: list[Any] = []

    def network(**configs: Any) -> Any:
        networks.append(open_network(**configs))
        return networks[0]

    reduce_client_log(settings.bootstrap_servers)
    config = {"bootstrap_timeout_ms": BOOTSTRAP_S * 1000, **config}
    try:
        with kafka_errors(f"a connection to {settings.bootstrap_servers}"):
            return make(
                bootstrap_servers=[part.strip() for part in settings.bootstrap_servers.split(",")],
                kafka_client=network,
                **config,
            )
    except MilvusStreamError as error:
        # A client whose constructor fails leaves its IO thread running and connecting for ever.
        for client in networks:
            client.close()
        if isinstance(error.__cause__, KafkaTimeoutError):
            raise Unavailable(
                f"no Kafka broker answers at {settings.bootstrap_servers} ({error.__cause__}). Check "
                "kafka.bootstrap_servers, that a broker listens there, and kafka.security_protocol"
            ) from error
        raise


def _for_client(settings: KafkaSettings, known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.options.items() if name in known}


def _checked(name: str, value: Any) -> Any:
    """Convert an option's text to its type. Raises UsageError for an unknown or reserved option, or a wrong value."""
    known: dict[str, Any] = {
        **KafkaAdminClient.DEFAULT_CONFIG,
        **KafkaProducer.DEFAULT_CONFIG,
        **KafkaConsumer.DEFAULT_CONFIG,
    }
    if name in _RESERVED:
        instead = f"; set {_RESERVED[name]} instead" if _RESERVED[name] else ": milvus-stream sets it itself"
        raise UsageError(f"kafka.{name} cannot be set{instead}")
    if name not in known:
        similar = difflib.get_close_matches(name, [key for key in known if key not in _RESERVED], n=1)
        hint = f"; did you mean {similar[0]}?" if similar else "; see the options of kafka-python's KafkaConsumer"
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
