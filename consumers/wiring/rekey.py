"""The rekey stage: its parts from the configuration."""

from dataclasses import replace

from consumers.config import Settings
from consumers.kafka import KafkaSettings, KafkaSource, TopicFacts, topic_facts
from consumers.rekey import RekeyMetrics, RekeyStage
from consumers.rekey.forwarding import Forwarder
from consumers.wiring.connections import kafka_settings
from consumers.wiring.documents import decoder
from pipeline.errors import UsageError


def rekey_stage(settings: Settings, target: str, metrics: RekeyMetrics) -> RekeyStage:
    """A stage from the configured topics to the topic `target`, in the group `<kafka.group_id>.rekey`.

    Raises UsageError (the topic is missing or a source), Unavailable.
    """
    kafka = replace(kafka_settings(settings), group_id=f"{settings.kafka.group_id}.rekey")
    if target in kafka.topics:
        raise UsageError(f"--to {target} is one of kafka.topics: its records would be forwarded for ever")
    if target == settings.kafka.dead_letter_topic:
        raise UsageError(f"--to {target} is kafka.dead_letter_topic: name a topic for the documents")
    _check_target(kafka, target)
    source = KafkaSource(kafka)
    return RekeyStage(source, Forwarder(kafka, target, source), decoder(settings).identify, metrics)


def _check_target(kafka: KafkaSettings, target: str) -> None:
    facts = topic_facts(kafka, (target,))[target]
    if not isinstance(facts, TopicFacts):
        raise UsageError(
            f"the topic {target} does not exist: create it with as many Kafka partitions as ingest shall have workers "
            "at most; their number should not change later, or a document's records are in two of them"
        )
