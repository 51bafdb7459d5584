"""The span of an audit: which records it reads, and which documents it compares."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from consumers.kafka import (
    KafkaSettings,
    TimeRange,
    TopicFacts,
    group_lag,
    offsets_at,
    topic_facts,
)
from pipeline.errors import UsageError
from pipeline.records import KafkaPartition, Position


@dataclass(frozen=True, slots=True)
class AuditSpan:
    """The span of an audit in each Kafka partition, fixed at its start."""

    group_id: str
    times: TimeRange | None
    read: Mapping[KafkaPartition, tuple[int, int]]
    """Offsets [start, end) by Kafka partition: from `--from`, or the beginning, to what the group has committed."""
    compared: Mapping[KafkaPartition, int]
    """Documents are compared if their newest record is before this offset: the first at or after `--to`, or the end."""
    waiting: int
    """Records that the group has not committed yet; their documents may be changing."""
    compacted: frozenset[str]
    topic_ids: Mapping[str, str]

    @property
    def records(self) -> int:
        """Offsets to be read; an upper bound of the records, as compaction and transactions leave holes."""
        return sum(max(0, end - start) for start, end in self.read.values())


def audit_span(kafka: KafkaSettings, times: TimeRange | None) -> AuditSpan:
    """Look up offsets and commits. Raises UsageError for a missing topic or a group without commits, Unavailable."""
    lags = group_lag(kafka)
    if all(lag.committed is None for lag in lags):
        raise UsageError(
            f"group {kafka.group_id} has committed nothing on {', '.join(kafka.topics)}, so there is nothing to audit: "
            "check kafka.group_id, or let an ingest worker read the topics first"
        )
    by_partition = {(lag.topic, lag.partition): lag for lag in lags}
    ends = {name: max(lag.start, min(lag.end, lag.committed or 0)) for name, lag in by_partition.items()}
    starts = {name: lag.start for name, lag in by_partition.items()}
    compared = ends
    if times is not None:
        first, after = (offsets_at(kafka, kafka.topics, at) for at in (times.from_ms, times.to_ms))
        starts = {name: max(start, first.get(name, ends[name])) for name, start in starts.items()}
        compared = {name: min(end, after.get(name, end)) for name, end in ends.items()}
    compacted, topic_ids = _topics(kafka)
    return AuditSpan(
        group_id=kafka.group_id,
        times=times,
        read={name: (min(starts[name], end), end) for name, end in ends.items()},
        compared=compared,
        waiting=sum(max(0, lag.end - ends[name]) for name, lag in by_partition.items()),
        compacted=compacted,
        topic_ids=topic_ids,
    )


def _topics(kafka: KafkaSettings) -> tuple[frozenset[str], dict[str, str]]:
    """The compacted ones of the topics, and the ids of all."""
    facts = topic_facts(kafka, kafka.topics)
    existing = {name: topic for name, topic in facts.items() if isinstance(topic, TopicFacts)}
    compacted = frozenset(name for name, topic in existing.items() if topic.compacted)
    return compacted, {name: topic.topic_id for name, topic in existing.items()}


def dead_letters(rejected: Iterable[Position], span: AuditSpan) -> Iterator[Position]:
    """The positions of rejected records that are in the span."""
    for position in rejected:
        start, end = span.read.get(position[:2], (0, 0))
        if start <= position.offset < end:
            yield position
