"""Looking at Kafka without joining the group: topics, log ranges, lag; and making sure of the dead-letter topic."""

import difflib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from kafka import OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    InvalidConfigurationError,
    InvalidReplicationFactorError,
    KafkaError,
    NotCoordinatorError,
    TopicAlreadyExistsError,
)
from kafka.protocol.consumer import OffsetSpec

from consumers.kafka.connection import KafkaSettings, kafka_errors, open_admin
from pipeline.errors import Unavailable, UsageError
from pipeline.records import KafkaPartition

DEFAULT_MESSAGE_BYTES = 1_048_588
"""`max.message.bytes` of a topic that sets none (Apache Kafka 4.1, documentation/configuration/topic)."""
_COORDINATOR_S, _COORDINATOR_PAUSE_S = 15.0, 0.2
"""Longest wait for a broker that answers for a group, and the pause between two questions."""
_NEAREST = 3
_KEPT = {"cleanup.policy": "delete", "retention.ms": "-1", "message.timestamp.type": "CreateTime"}
"""Settings of a dead-letter topic: it keeps everything, under the records' own timestamps."""
_ANY_TIME = dict.fromkeys(("message.timestamp.before.max.ms", "message.timestamp.after.max.ms"), str(2**63 - 1))
"""It takes what the source took, which may allow other times or is older than these limits."""
_CONFIGS = ("cleanup.policy", "max.message.bytes", "message.timestamp.type", "retention.ms")


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic that exists."""

    partitions: int
    topic_id: str
    """Another one after the topic was deleted and created anew; "" on brokers before 2.8."""


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """A topic that exists, and those of its settings that decide whether records get through."""

    partitions: int
    compacted: bool
    max_message_bytes: int | None
    """None: this user may not see the topic's settings."""
    retention_ms: int | None
    """-1: for ever."""
    broker_time: bool
    """Record timestamps are the broker's, not the producer's."""
    topic_id: str = ""
    """See `TopicInfo`."""


@dataclass(frozen=True, slots=True)
class MissingTopic:
    """A topic that is not there."""

    similar: tuple[str, ...]
    """Topics with a name much like it."""


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far the group has come on one Kafka partition."""

    topic: str
    partition: int
    start: int
    """First offset the log still holds."""
    end: int
    """Offset of the next record to be produced."""
    committed: int | None
    """None: the group has never committed here."""

    @property
    def lag(self) -> int:
        """Records between the committed offset and the end; everything held, where nothing was committed."""
        return self.end - max(self.start, self.committed or 0)


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """What answered."""

    address: str
    version: str
    """The newest Kafka version whose protocol the broker speaks, e.g. `4.1`."""
    topics: int


def existing_topics(admin: KafkaAdminClient, names: Collection[str]) -> dict[str, TopicInfo]:
    """The topics by name. Raises UsageError naming the missing ones and existing topics with similar names."""
    with kafka_errors(f"the topics {', '.join(names)}"):
        found = admin.describe_topics(list(names))
        for topic in found:
            if topic["error_code"] not in (0, _UNKNOWN_TOPIC):
                raise _topic_error(topic["name"], topic["error_code"])
        missing = sorted(topic["name"] for topic in found if topic["error_code"] == _UNKNOWN_TOPIC)
        if missing:
            raise _missing(missing, [name for name in admin.list_topics() if not name.startswith("__")])
    return {topic["name"]: TopicInfo(len(topic["partitions"]), str(topic["topic_id"] or "")) for topic in found}


_UNKNOWN_TOPIC = 3
_NOT_AUTHORIZED = 29


def _topic_error(name: str, code: int) -> UsageError | Unavailable:
    if code == _NOT_AUTHORIZED:
        return UsageError(f"this user may not read Kafka topic {name}: give it DESCRIBE and READ on it")
    return Unavailable(f"Kafka topic {name} cannot be described at the moment (error code {code})")


def _missing(missing: Sequence[str], present: Sequence[str]) -> UsageError:
    parts = []
    for name in missing:
        near = difflib.get_close_matches(name, present, n=_NEAREST)
        parts.append(f"{name} (did you mean {' or '.join(near)}?)" if near else name)
    return UsageError(
        f"kafka.topics: no such topic on the broker: {', '.join(parts)}. "
        "Create it or correct the name; topics are not created by reading them"
    )


def topic_facts(settings: KafkaSettings, names: Collection[str]) -> dict[str, TopicFacts | MissingTopic]:
    """What each topic is like, missing ones too. Raises UsageError where this user may not see one, Unavailable."""
    with _admin(settings) as admin, kafka_errors(f"the topics {', '.join(names)}"):
        present = admin.list_topics()
        wanted = [name for name in names if name in present]
        there = existing_topics(admin, wanted) if wanted else {}
        facts: dict[str, TopicFacts | MissingTopic] = {}
        for name in names:
            if name in there:
                facts[name] = _facts(there[name], topic_configs(admin, name))
            else:
                near = difflib.get_close_matches(name, [other for other in present if other[:2] != "__"], n=_NEAREST)
                facts[name] = MissingTopic(tuple(near))
        return facts


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
    """First offset held and end offset of each Kafka partition. Raises kafka-python's errors."""
    if not partitions:
        return {}
    wanted = [TopicPartition(*name) for name in partitions]
    starts = admin.list_partition_offsets(dict.fromkeys(wanted, OffsetSpec.EARLIEST))
    ends = admin.list_partition_offsets(dict.fromkeys(wanted, OffsetSpec.LATEST))
    return {(tp.topic, tp.partition): (starts[tp].offset, ends[tp].offset) for tp in wanted}


def topic_partitions(settings: KafkaSettings) -> dict[str, int]:
    """Number of Kafka partitions of each configured topic. Raises UsageError for a missing one, Unavailable."""
    with _admin(settings) as admin:
        return {topic: info.partitions for topic, info in existing_topics(admin, settings.topics).items()}


def group_lag(settings: KafkaSettings) -> list[PartitionLag]:
    """Lag of the group on every Kafka partition of the configured topics, without joining it.

    Raises UsageError for a missing topic, Unavailable.
    """
    with _admin(settings) as admin:
        topics = existing_topics(admin, settings.topics)
        names = [(topic, number) for topic in settings.topics for number in range(topics[topic].partitions)]
        with kafka_errors(f"the offsets of group {settings.group_id}"):
            ranges = log_ranges(admin, names)
            committed = _committed(admin, settings.group_id)
    result = []
    for topic, number in names:
        at = committed.get(TopicPartition(topic, number))
        start, end = ranges[topic, number]
        result.append(PartitionLag(topic, number, start, end, at.offset if at and at.offset >= 0 else None))
    return result


def _committed(admin: KafkaAdminClient, group: str) -> Mapping[TopicPartition, OffsetAndMetadata]:
    """The group's offsets, waiting for a broker that answers for the group.

    The first question for any group makes a new Kafka create the topic of offsets; until that stands none does.
    """
    deadline = time.monotonic() + _COORDINATOR_S
    while True:
        try:
            return admin.list_group_offsets({group: None}).get(group, {})  # type: ignore[no-any-return]
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(_COORDINATOR_PAUSE_S)


def broker_info(settings: KafkaSettings) -> BrokerInfo:
    """What answers at `bootstrap_servers`. Raises Unavailable, UsageError.

    Uses the list of topics: `describe_cluster` and `describe_groups` of kafka-python fail on some brokers.
    """
    with _admin(settings) as admin, kafka_errors("the list of topics"):
        names = admin.list_topics()
        version = admin.config["api_version"] or admin._manager.broker_version
    return BrokerInfo(settings.bootstrap_servers, ".".join(map(str, version)), len(names))


def ensure_dead_letter_topic(settings: KafkaSettings, name: str, *, create: bool) -> None:
    """Make sure at the start that rejected records have a place to go.

    A missing topic is created if allowed: one Kafka partition, the broker's replication, and kept for ever, because a
    dead letter carries its record's own timestamp and retention by time would delete an old one at once. For the same
    reason it takes every timestamp.
    Raises UsageError when it is missing and may not be created, or is compacted; Unavailable.
    """
    with _admin(settings) as admin, kafka_errors(f"the dead-letter topic {name}"):
        if name in admin.list_topics():
            _refuse_compaction(admin, name)
            return
        if not create:
            raise UsageError(
                f"kafka.dead_letter_topic {name} does not exist and kafka.create_dead_letter_topic is false: "
                f"create it (1 partition, {', '.join(f'{key}={value}' for key, value in _KEPT.items())})"
            )
        try:
            _create_dead_letter_topic(admin, name)
        except TopicAlreadyExistsError:
            return  # another worker was quicker
        except InvalidReplicationFactorError as error:
            raise UsageError(
                f"the dead-letter topic {name} cannot be created with the broker's default.replication.factor: {error}"
            ) from error


def _create_dead_letter_topic(admin: KafkaAdminClient, name: str) -> None:
    try:
        admin.create_topics({name: {"num_partitions": 1, "configs": _KEPT | _ANY_TIME}}, wait_for_metadata=True)
    except InvalidConfigurationError:  # a Kafka before 3.6 does not know these limits of time, and has no others
        admin.create_topics({name: {"num_partitions": 1, "configs": _KEPT}}, wait_for_metadata=True)


def message_limit(admin: KafkaAdminClient, topic: str) -> int:
    """Largest record batch in bytes that the topic takes; the broker's usual limit where it may not be asked."""
    value = topic_configs(admin, topic).get("max.message.bytes")
    return int(value) if value else DEFAULT_MESSAGE_BYTES


def _refuse_compaction(admin: KafkaAdminClient, name: str) -> None:
    if "compact" in (topic_configs(admin, name).get("cleanup.policy") or ""):
        raise UsageError(
            f"kafka.dead_letter_topic {name} is compacted: it would keep one dead letter per key and refuse those "
            "without a key. Set cleanup.policy=delete on it or name another topic"
        )


def topic_configs(admin: KafkaAdminClient, topic: str) -> Mapping[str, str | None]:
    """The topic's settings that matter here; empty where this user may not see them."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(_CONFIGS))
    try:
        found = admin.describe_configs([resource], config_filter="all")
    except KafkaError:
        return {}
    return {key: entry["value"] for key, entry in found.get("topic", {}).get(topic, {}).items()}


@contextmanager
def _admin(settings: KafkaSettings) -> Iterator[KafkaAdminClient]:
    with closing(open_admin(settings)) as admin:
        yield admin
