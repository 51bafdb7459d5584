"""Topics seen from outside: their settings and the offsets they hold; and the creation of a topic."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import (
    InvalidConfigurationError,
    InvalidReplicationFactorError,
    KafkaError,
    TopicAlreadyExistsError,
)
from kafka.protocol.consumer import IsolationLevel, OffsetSpec

from consumers.kafka.client.connection import KafkaSettings, open_admin
from consumers.kafka.client.errors import kafka_errors
from consumers.kafka.client.internals import broker_version
from pipeline.errors import Unavailable, UsageError
from pipeline.records import KafkaPartition

EARLIEST, LATEST = OffsetSpec.EARLIEST, OffsetSpec.LATEST
DEFAULT_MESSAGE_BYTES = 1_048_588
"""`max.message.bytes` of a topic that does not set it (Apache Kafka 4.1, documentation/configuration/topic)."""
_SIMILAR_NAMES = 3
_CONFIGS = (
    "cleanup.policy",
    "delete.retention.ms",
    "max.message.bytes",
    "message.timestamp.type",
    "retention.ms",
)
_UNKNOWN_TOPIC = 3
_NOT_AUTHORIZED = 29


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """An existing topic."""

    partitions: int
    topic_id: str
    """Changes when the topic is deleted and recreated; "" on brokers before 2.8."""


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """An existing topic and the settings that decide whether it takes and keeps records."""

    partitions: int
    compacted: bool
    max_message_bytes: int | None
    """None: this user may not read the topic's settings."""
    retention_ms: int | None
    """-1: for ever."""
    broker_time: bool
    """Record timestamps are the broker's, not the producer's."""
    topic_id: str = ""
    """The same as in `TopicInfo`."""


@dataclass(frozen=True, slots=True)
class MissingTopic:
    """A topic that does not exist."""

    similar: tuple[str, ...]
    """Existing topics with a similar name."""


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """A broker that answered."""

    address: str
    version: str
    """The newest Kafka version whose protocol the broker speaks, e.g. `4.1`."""
    topics: int


@dataclass(frozen=True, slots=True)
class LogRange:
    """The offsets that a Kafka partition holds: [start, end)."""

    start: int
    end: int


def existing_topics(admin: KafkaAdminClient, names: Collection[str]) -> dict[str, TopicInfo]:
    """Describe the topics. Raises UsageError with the missing ones and similar names, Unavailable."""
    with kafka_errors(f"the topics {', '.join(names)}"):
        topics = admin.describe_topics(list(names))
        for topic in topics:
            if topic["error_code"] not in (0, _UNKNOWN_TOPIC):
                raise _topic_error(topic["name"], topic["error_code"])
        missing = sorted(topic["name"] for topic in topics if topic["error_code"] == _UNKNOWN_TOPIC)
        if missing:
            raise _missing_topics(missing, admin.list_topics())
    return {topic["name"]: TopicInfo(len(topic["partitions"]), str(topic["topic_id"] or "")) for topic in topics}


def check_topics(settings: KafkaSettings) -> None:
    """Raise UsageError unless the configured topics exist; also Unavailable."""
    with closing(open_admin(settings)) as admin:
        existing_topics(admin, settings.topics)


def all_partitions(admin: KafkaAdminClient, names: Collection[str]) -> list[KafkaPartition]:
    """List every Kafka partition of the topics. Raises as `existing_topics`."""
    topics = existing_topics(admin, names)
    return [(topic, number) for topic, info in topics.items() for number in range(info.partitions)]


def topic_ids(admin: KafkaAdminClient, names: Collection[str]) -> dict[str, str]:
    """Read the ids of the topics that exist; "" on brokers before 2.8. Raises Unavailable, UsageError."""
    with kafka_errors("the ids of the topics"):
        topics = admin.describe_topics(list(names))
    return {topic["name"]: str(topic["topic_id"] or "") for topic in topics}


def _topic_error(name: str, code: int) -> UsageError | Unavailable:
    if code == _NOT_AUTHORIZED:
        return UsageError(f"this user may not read Kafka topic {name}: give it DESCRIBE and READ on it")
    return Unavailable(f"Kafka topic {name} cannot be described at the moment (error code {code})")


def _missing_topics(missing: Sequence[str], present: Sequence[str]) -> UsageError:
    parts = []
    for name in missing:
        similar = _similar(name, present)
        parts.append(f"{name} (did you mean {' or '.join(similar)}?)" if similar else name)
    return UsageError(
        f"kafka.topics: no such topic on the broker: {', '.join(parts)}. "
        "Create it or correct the name; topics are not created by reading them"
    )


def _similar(name: str, present: Sequence[str]) -> tuple[str, ...]:
    candidates = [other for other in present if not other.startswith("__")]
    return tuple(difflib.get_close_matches(name, candidates, n=_SIMILAR_NAMES))


def topic_facts(settings: KafkaSettings, names: Collection[str]) -> dict[str, TopicFacts | MissingTopic]:
    """Describe each topic, missing ones too. Raises UsageError if this user may not see one, Unavailable."""
    with closing(open_admin(settings)) as admin, kafka_errors(f"the topics {', '.join(names)}"):
        present = admin.list_topics()
        requested = [name for name in names if name in present]
        existing = existing_topics(admin, requested) if requested else {}
        return {
            name: _facts(existing[name], topic_configs(admin, name))
            if name in existing
            else MissingTopic(_similar(name, present))
            for name in names
        }


def _facts(info: TopicInfo, configs: Mapping[str, str | None]) -> TopicFacts:
    def number(name: str) -> int | None:
        value = configs.get(name)
        return int(value) if value else None

    return TopicFacts(
        partitions=info.partitions,
        compacted="compact" in (configs.get("cleanup.policy") or ""),
        max_message_bytes=number("max.message.bytes"),
        retention_ms=number("retention.ms"),
        broker_time=configs.get("message.timestamp.type") == "LogAppendTime",
        topic_id=info.topic_id,
    )


def log_ranges(
    admin: KafkaAdminClient, partitions: Collection[KafkaPartition]
) -> dict[KafkaPartition, tuple[int, int]]:
    """Read the first offset held and the end offset of each Kafka partition. Raises kafka-python's errors."""
    if not partitions:
        return {}
    names = [TopicPartition(*name) for name in partitions]
    starts = admin.list_partition_offsets(dict.fromkeys(names, OffsetSpec.EARLIEST))
    ends = admin.list_partition_offsets(dict.fromkeys(names, OffsetSpec.LATEST))
    return {(tp.topic, tp.partition): (starts[tp].offset, ends[tp].offset) for tp in names}


def stable_offsets(
    admin: KafkaAdminClient, partitions: Collection[KafkaPartition], spec: int
) -> dict[KafkaPartition, int]:
    """Read an offset of each Kafka partition, at most that of the first transaction still open.

    `spec`: EARLIEST, LATEST or epoch milliseconds; Kafka partitions without a record at or after that time are left
    out. Behind an open transaction nothing can be read yet, and a job must not wait for it. Raises kafka-python's
    errors.
    """
    specs = {TopicPartition(*name): spec for name in partitions}
    offsets = admin.list_partition_offsets(specs, isolation_level=IsolationLevel.READ_COMMITTED)
    return {(tp.topic, tp.partition): at.offset for tp, at in offsets.items() if at.offset >= 0}


def broker_info(settings: KafkaSettings) -> BrokerInfo:
    """Describe the broker at `bootstrap_servers`. Raises Unavailable, UsageError.

    It asks for the list of topics, because `describe_cluster` and `describe_groups` of kafka-python fail on some
    brokers.
    """
    with closing(open_admin(settings)) as admin, kafka_errors("the list of topics"):
        names = admin.list_topics()
        version = ".".join(map(str, broker_version(admin)))
    return BrokerInfo(settings.bootstrap_servers, version, len(names))


def topic_names(settings: KafkaSettings) -> list[str]:
    """List the topics that this user may see. Raises Unavailable, UsageError."""
    with closing(open_admin(settings)) as admin, kafka_errors("the list of topics"):
        return sorted(admin.list_topics())


def create_topic(
    settings: KafkaSettings,
    name: str,
    *,
    partitions: int = 1,
    configs: Mapping[str, str] = MappingProxyType({}),
    newer_configs: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Create a topic with the broker's replication; one that exists is no error.

    `newer_configs` are left out if the broker does not know them. Raises Unavailable, UsageError.
    """
    with closing(open_admin(settings)) as admin, kafka_errors(f"the creation of topic {name}"):
        try:
            _create(admin, name, partitions, {**configs, **newer_configs})
        except InvalidConfigurationError:
            if not newer_configs:
                raise
            _create(admin, name, partitions, configs)


def _create(admin: KafkaAdminClient, name: str, partitions: int, configs: Mapping[str, str]) -> None:
    try:
        admin.create_topics({name: {"num_partitions": partitions, "configs": dict(configs)}}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        return  # another process was faster
    except InvalidReplicationFactorError as error:
        raise UsageError(
            f"the topic {name} cannot be created with the broker's default.replication.factor: {error}"
        ) from error


def compacted_topics(admin: KafkaAdminClient, names: Collection[str]) -> dict[str, int]:
    """Read `delete.retention.ms` of the topics that are compacted, where this user may see it."""
    retentions = {}
    for name in names:
        configs = topic_configs(admin, name)
        retention_ms = configs.get("delete.retention.ms")
        if "compact" in (configs.get("cleanup.policy") or "") and retention_ms:
            retentions[name] = int(retention_ms)
    return retentions


def message_limit(admin: KafkaAdminClient, topic: str) -> int:
    """Read the largest record batch in bytes that the topic takes; Kafka's default if this user may not read it."""
    value = topic_configs(admin, topic).get("max.message.bytes")
    return int(value) if value else DEFAULT_MESSAGE_BYTES


def topic_configs(admin: KafkaAdminClient, topic: str) -> Mapping[str, str | None]:
    """Read the topic's settings that this program uses; empty if this user may not."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(_CONFIGS))
    try:
        described = admin.describe_configs([resource], config_filter="all")
    except KafkaError:
        return {}
    return {key: entry["value"] for key, entry in described.get("topic", {}).get(topic, {}).items()}
