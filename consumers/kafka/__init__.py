"""Kafka: the source of a group member, offsets, and reads of topics and groups from outside.

Callers get the values of `pipeline.records` and the errors of `pipeline.errors`, never objects of kafka-python.
"""

from consumers.kafka.admin import BrokerInfo, MissingTopic, TopicFacts, broker_info, create_topic, topic_facts
from consumers.kafka.binding import CollectionBinding, check_commits, fills
from consumers.kafka.connection import KafkaSettings
from consumers.kafka.groups import GroupWatch, PartitionLag, forget_group, group_lag
from consumers.kafka.job_membership import JobMembership, job_group
from consumers.kafka.lease_clock import LeaseClock, suspend_clock
from consumers.kafka.live_group import LiveGroup
from consumers.kafka.lookup import KafkaLookup
from consumers.kafka.offsets import OffsetTracker
from consumers.kafka.ports import Lag, Source
from consumers.kafka.positions import start_problems
from consumers.kafka.publisher import Publisher
from consumers.kafka.reader import newest, offsets_at, read_range, records_at, stable_ranges, topic_ranges
from consumers.kafka.rebalance import RebalanceHandler
from consumers.kafka.remembered import PositionMemory, RememberedPositions
from consumers.kafka.source import KafkaSource
from consumers.kafka.time_range import TimeRange, parse_time_range

__all__ = [
    "BrokerInfo",
    "CollectionBinding",
    "GroupWatch",
    "JobMembership",
    "KafkaLookup",
    "KafkaSettings",
    "KafkaSource",
    "Lag",
    "LeaseClock",
    "LiveGroup",
    "MissingTopic",
    "OffsetTracker",
    "PartitionLag",
    "PositionMemory",
    "Publisher",
    "RebalanceHandler",
    "RememberedPositions",
    "Source",
    "TimeRange",
    "TopicFacts",
    "broker_info",
    "check_commits",
    "create_topic",
    "fills",
    "forget_group",
    "group_lag",
    "job_group",
    "newest",
    "offsets_at",
    "parse_time_range",
    "read_range",
    "records_at",
    "stable_ranges",
    "start_problems",
    "suspend_clock",
    "topic_facts",
    "topic_ranges",
]
