"""Kafka: the source of a group member, offsets, and reads of topics and groups from outside.

Callers get the values of `pipeline.records` and the errors of `pipeline.errors`, never objects of kafka-python.
"""

from consumers.kafka.client.connection import KafkaSettings
from consumers.kafka.client.lease_clock import LeaseClock, suspend_clock
from consumers.kafka.groups.binding import NO_COLLECTION, CollectionBinding, check_commits, fills, topic_commits
from consumers.kafka.groups.commits import PartitionLag, group_lag
from consumers.kafka.groups.group_offsets import GroupOffsets
from consumers.kafka.groups.group_watch import GroupMember, GroupWatch, forget_group
from consumers.kafka.groups.job_membership import JobMembership, job_group
from consumers.kafka.groups.live_group import LiveGroup
from consumers.kafka.positions.offset_tracker import OffsetTracker
from consumers.kafka.positions.remembered import PositionMemory, RememberedPositions
from consumers.kafka.positions.start_positions import start_problems
from consumers.kafka.producing.publisher import Publisher
from consumers.kafka.producing.record_sender import RecordSender
from consumers.kafka.source.group_source import KafkaSource
from consumers.kafka.source.ports import Lag, Source
from consumers.kafka.source.rebalance import RebalanceHandler
from consumers.kafka.topics.admin import (
    BrokerInfo,
    MissingTopic,
    TopicFacts,
    broker_info,
    check_topics,
    create_topic,
    topic_facts,
    topic_names,
)
from consumers.kafka.topics.lookup import KafkaLookup
from consumers.kafka.topics.reader import newest, offsets_at, read_range, records_at, stable_ranges, topic_ranges
from consumers.kafka.topics.time_range import TimeRange, parse_time_range

__all__ = [
    "NO_COLLECTION",
    "BrokerInfo",
    "CollectionBinding",
    "GroupMember",
    "GroupOffsets",
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
    "RecordSender",
    "RememberedPositions",
    "Source",
    "TimeRange",
    "TopicFacts",
    "broker_info",
    "check_commits",
    "check_topics",
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
    "topic_commits",
    "topic_facts",
    "topic_names",
    "topic_ranges",
]
