"""Everything spoken to Kafka: source, offsets, rebalance, dead letters.

What reaches a caller are the values of `pipeline.records` and the errors of `pipeline.errors`.
"""

from consumers.dead_letters.envelope import DeadLetter, decode_dead_letter
from consumers.dead_letters.producer import DeadLetterPolicy, DeadLetters, DeadLetterTopic
from consumers.kafka.admin import (
    BrokerInfo,
    MissingTopic,
    PartitionLag,
    TopicFacts,
    broker_info,
    ensure_dead_letter_topic,
    group_lag,
    topic_facts,
    topic_partitions,
)
from consumers.kafka.connection import KafkaSettings
from consumers.kafka.offsets import OffsetTracker
from consumers.kafka.publisher import Publisher, create_topic
from consumers.kafka.reader import newest, offsets_at, read_range, records_at, topic_ranges
from consumers.kafka.rebalance import RebalanceHandler
from consumers.kafka.source import KafkaSource, Lag, Source

__all__ = [
    "BrokerInfo",
    "DeadLetter",
    "DeadLetterPolicy",
    "DeadLetterTopic",
    "DeadLetters",
    "KafkaSettings",
    "KafkaSource",
    "Lag",
    "MissingTopic",
    "OffsetTracker",
    "PartitionLag",
    "Publisher",
    "RebalanceHandler",
    "Source",
    "TopicFacts",
    "broker_info",
    "create_topic",
    "decode_dead_letter",
    "ensure_dead_letter_topic",
    "group_lag",
    "newest",
    "offsets_at",
    "read_range",
    "records_at",
    "topic_facts",
    "topic_partitions",
    "topic_ranges",
]
