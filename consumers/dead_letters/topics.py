"""The dead-letter topic and the topic of its retries: checked, and created if they are missing."""

from consumers.kafka import KafkaSettings, TopicFacts, create_topic, topic_facts
from pipeline.errors import UsageError

_KEEP_ALL = {"cleanup.policy": "delete", "retention.ms": "-1", "message.timestamp.type": "CreateTime"}
"""Configs of a dead-letter topic: it keeps every record for ever, with the record's own timestamp."""
_ANY_TIME = dict.fromkeys(("message.timestamp.before.max.ms", "message.timestamp.after.max.ms"), str(2**63 - 1))
"""It takes every timestamp, since the source topic may allow other times. Unknown to a Kafka before 3.6, which has no
such limits."""


def ensure_dead_letter_topic(settings: KafkaSettings, name: str, *, create: bool) -> None:
    """Check the dead-letter topic, or create it if it is missing and `create` allows it.

    It is created with one Kafka partition and without retention: a dead letter has its record's timestamp, so retention
    by time would delete an old one at once. Raises UsageError if the topic is missing and may not be created, or is
    compacted; Unavailable.
    """
    facts = topic_facts(settings, (name,))[name]
    if isinstance(facts, TopicFacts):
        if facts.compacted:
            raise UsageError(
                f"kafka.dead_letter_topic {name} is compacted: it would keep one dead letter per key and refuse those "
                "without a key. Set cleanup.policy=delete on it or name another topic"
            )
        return
    if not create:
        raise UsageError(
            f"kafka.dead_letter_topic {name} does not exist and kafka.create_dead_letter_topic is false: "
            f"create it (1 partition, {', '.join(f'{key}={value}' for key, value in _KEEP_ALL.items())})"
        )
    create_topic(settings, name, configs=_KEEP_ALL, newer_configs=_ANY_TIME)


def retry_log_topic(dead_letter_topic: str) -> str:
    """Name of the topic that logs the retried records."""
    return f"{dead_letter_topic}.retried"


def ensure_retry_log(settings: KafkaSettings, dead_letter_topic: str, *, create: bool) -> None:
    """Check the topic of the retry log, or create it. Raises UsageError if it may not be created, Unavailable."""
    name = retry_log_topic(dead_letter_topic)
    if isinstance(topic_facts(settings, (name,))[name], TopicFacts):
        return
    if not create:
        raise UsageError(
            f"the topic {name}, in which `dlq retry` logs the records it has retried, does not exist and "
            "kafka.create_dead_letter_topic is false: create it (1 partition, cleanup.policy=compact)"
        )
    # Compacted, so that no retention deletes an entry; every entry has its own key.
    create_topic(settings, name, configs={"cleanup.policy": "compact"})
