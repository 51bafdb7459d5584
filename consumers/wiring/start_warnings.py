"""Warnings about servers and topics that work and may lose something, for the start of a worker and `doctor`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import structlog

from consumers.config import Settings
from consumers.kafka import KafkaSettings, MissingTopic, TopicFacts, topic_facts
from pipeline.store import MilvusServerApi, version_warning

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StartWarning:
    """One such warning."""

    check: str
    """The name of the check of `doctor`, e.g. `kafka.dead_letters`."""
    seen: str
    do: str


def log_warnings(settings: Settings, kafka: KafkaSettings, api: MilvusServerApi, *, workers: int = 1) -> None:
    """Log every warning about the server, the topics and the number of workers. Raises UsageError, Unavailable."""
    topics = [*settings.kafka.topics, settings.kafka.dead_letter_topic]
    facts = topic_facts(kafka, topics)
    for warning in [
        *server_warnings(api),
        *topic_warnings(settings, facts),
        *worker_warnings(settings, facts, workers),
    ]:
        log.warning(warning.check, seen=warning.seen, do=warning.do)


def log_server_warnings(api: MilvusServerApi) -> None:
    """Log the warnings about the server."""
    for warning in server_warnings(api):
        log.warning(warning.check, seen=warning.seen, do=warning.do)


def server_warnings(api: MilvusServerApi) -> Iterator[StartWarning]:
    """The warnings about the Milvus server."""
    warning = version_warning(api.server)
    if warning is not None:
        yield StartWarning("milvus.version", warning.seen, warning.do)


def worker_warnings(
    settings: Settings, facts: Mapping[str, TopicFacts | MissingTopic], workers: int
) -> Iterator[StartWarning]:
    """The warning about more workers than Kafka partitions, of which each has one owner."""
    topics = [details for name in settings.kafka.topics if isinstance(details := facts.get(name), TopicFacts)]
    partitions = sum(details.partitions for details in topics)
    if len(topics) == len(settings.kafka.topics) and workers > partitions:
        yield StartWarning(
            "kafka.idle_workers",
            f"{workers} workers were started, but {', '.join(settings.kafka.topics)} has {partitions} Kafka "
            f"partition{'s' * (partitions != 1)}: {workers - partitions} of the workers get none and stay idle",
            f"start with --workers {partitions}; a topic that has keyed records must not get more Kafka partitions",
        )


def topic_warnings(settings: Settings, facts: Mapping[str, TopicFacts | MissingTopic]) -> Iterator[StartWarning]:
    """The warnings about those of the topics that exist; `facts` by name."""
    for name in settings.kafka.topics:
        details = facts.get(name)
        if isinstance(details, TopicFacts) and details.broker_time:
            yield _broker_time(settings, name)
    name = settings.kafka.dead_letter_topic
    details = facts.get(name)
    if not isinstance(details, TopicFacts):
        return
    if details.retention_ms not in (None, -1):
        yield StartWarning(
            "kafka.dead_letters",
            f"{name} forgets records by age (retention.ms={details.retention_ms}), and a dead letter has its record's "
            "own timestamp: old ones are deleted at once",
            "set retention.ms=-1 on it",
        )
    if details.broker_time:
        yield StartWarning(
            "kafka.dead_letters",
            f"{name} has message.timestamp.type=LogAppendTime: dead letters lose the timestamps of their records, and "
            "`dlq retry` sends them with another one",
            "set message.timestamp.type=CreateTime on it",
        )


def _broker_time(settings: Settings, topic: str) -> StartWarning:
    """Where the broker sets the timestamps, a copy of a record has another one."""
    effects = [
        f"a record without {settings.record.time_field} is as old as its copy in the topic, also after `dlq retry`"
    ]
    if settings.record.version_field is None:
        effects.append("of two records of a document in different Kafka partitions the one read last counts as newer")
    field, version = settings.record.time_field, settings.record.version_field or "one for record.version_field"
    return StartWarning(
        "kafka.timestamps",
        f"{topic} has message.timestamp.type=LogAppendTime: {'; '.join(effects)}",
        f"set message.timestamp.type=CreateTime on it, or give every record {field} and {version}",
    )
