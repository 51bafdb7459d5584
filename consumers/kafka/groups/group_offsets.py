"""The committed offsets of a group and the ends of its topics, read again and again over one connection."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from kafka.admin import KafkaAdminClient

from consumers.kafka.client.connection import KafkaSettings, open_admin
from consumers.kafka.client.errors import kafka_errors
from consumers.kafka.groups.commits import Commit, group_commits
from consumers.kafka.topics.admin import existing_topics, log_ranges
from pipeline.errors import MilvusStreamError, Unavailable
from pipeline.records import KafkaPartition

T = TypeVar("T")

_QUICK: Mapping[str, Any] = MappingProxyType({"bootstrap_timeout_ms": 3_000, "request_timeout_ms": 5_000})
"""Somebody waits for the answer. A configured value is used instead."""
_COORDINATOR_S = 1.0
_TOPICS_S = 1.0
"""Least time between two reads of the topics' ids."""


class GroupOffsets:
    """The offsets of the configured group, for any thread. It connects with the first call, and after a failure again.

    Every call raises Unavailable where Kafka gives no answer within some seconds, and UsageError for a missing topic or
    without the rights to Describe the group and its topics.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        made_for: Callable[[str], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`made_for`: whether a commit that names this collection (by its id, "": none) counts."""
        self._settings = replace(settings, options={**_QUICK, **settings.options})
        self._made_for = made_for
        self._admin: KafkaAdminClient | None = None
        self._closed = False
        self._clock = clock
        self._topic_ids: Mapping[str, str] = {}
        self._topics_due_at = clock()
        self._lock = threading.Lock()

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._settings.group_id

    @property
    def topics(self) -> Collection[str]:
        """The configured topics."""
        return self._settings.topics

    @property
    def topic_ids(self) -> Mapping[str, str]:
        """Kafka's ids of the topics, as the last call has read them; "" on brokers before 2.8."""
        return self._topic_ids

    def partitions(self) -> Mapping[str, int]:
        """How many Kafka partitions each topic has."""
        return self._call(self._partitions)

    def committed(self) -> Mapping[KafkaPartition, int]:
        """The offsets committed for the collection; Kafka partitions without one are left out."""
        commits = self._call(self._commits)
        return {name: commit.offset for name, commit in commits.items() if self._made_for(commit.collection_id)}

    def ranges(self) -> Mapping[KafkaPartition, tuple[int, int]]:
        """Of each Kafka partition the first offset held, and the offset of the next record to be produced."""

        def read(admin: KafkaAdminClient) -> Mapping[KafkaPartition, tuple[int, int]]:
            topics = self._partitions(admin)
            with kafka_errors("the first and last offsets of the topics"):
                return log_ranges(admin, [(topic, number) for topic in topics for number in range(topics[topic])])

        return self._call(read)

    def close(self) -> None:
        """Close the connection, if there is one; a call under way ends first, and none is made after."""
        with self._lock:
            self._closed = True
            self._drop()

    def _partitions(self, admin: KafkaAdminClient) -> Mapping[str, int]:
        topics = existing_topics(admin, self.topics)
        self._topic_ids = {name: info.topic_id for name, info in topics.items()}
        return {name: info.partitions for name, info in topics.items()}

    def _commits(self, admin: KafkaAdminClient) -> dict[KafkaPartition, Commit]:
        """The commits on the topics as they are now: an offset of a topic that was made again says nothing of it."""
        commits = group_commits(admin, self.group, deadline_s=_COORDINATOR_S)
        commits = {name: commit for name, commit in commits.items() if name[0] in self.topics}
        now = self._clock()
        if now >= self._topics_due_at and not all(self._of_topic(*entry) for entry in commits.items()):
            self._topics_due_at = now + _TOPICS_S
            self._partitions(admin)
        return {name: commit for name, commit in commits.items() if self._of_topic(name, commit)}

    def _of_topic(self, name: KafkaPartition, commit: Commit) -> bool:
        return not commit.topic_id or commit.topic_id == self._topic_ids.get(name[0])

    def _call(self, read: Callable[[KafkaAdminClient], T]) -> T:
        with self._lock:
            if self._closed:
                raise Unavailable("the connection to Kafka is closed")
            try:
                if self._admin is None:
                    self._admin = open_admin(self._settings)
                return read(self._admin)
            except MilvusStreamError:
                self._drop()
                raise

    def _drop(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()
