"""Single records read once more, wherever their topic still has them."""

from collections.abc import Collection, Mapping
from contextlib import closing

from consumers.kafka.client.connection import KafkaSettings, open_admin
from consumers.kafka.client.errors import kafka_errors
from consumers.kafka.topics.admin import TopicInfo, existing_topics, log_ranges
from consumers.kafka.topics.reader import records_at
from pipeline.records import Position, SourceRecord


class KafkaLookup:
    """Reads records at positions with clients of its own, opened for each call: it is called rarely."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    def read(self, topic_ids: Mapping[Position, str]) -> Mapping[Position, SourceRecord]:
        """Read the records that are still there; `topic_ids`: of which topic each must be, "" where it is not known.

        Raises Unavailable, UsageError (this user may not read the topic).
        """
        held = self._held(topic_ids) if topic_ids else ()
        if not held:
            return {}
        return {record.position: record for record in records_at(self._settings, held)}

    def _held(self, wanted: Mapping[Position, str]) -> Collection[Position]:
        """The positions within what the topics hold; beyond its end a read would wait."""
        with closing(open_admin(self._settings)) as admin:
            with kafka_errors("the list of topics"):
                present = set(admin.list_topics())
            names = {position.topic for position in wanted} & present
            if not names:
                return []
            topics = existing_topics(admin, names)
            same = [
                at for at, topic_id in wanted.items() if at.topic in names and _is_in(at, topic_id, topics[at.topic])
            ]
            with kafka_errors("the first and last offsets of the topics"):
                ranges = log_ranges(admin, {at[:2] for at in same})
        return [at for at in same if ranges[at[:2]][0] <= at.offset < ranges[at[:2]][1]]


def _is_in(at: Position, topic_id: str, topic: TopicInfo) -> bool:
    return at.partition < topic.partitions and (topic_id in ("", topic.topic_id) or not topic.topic_id)
