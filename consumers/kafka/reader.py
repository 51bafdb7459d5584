"""Records of a bounded range of a topic, read without a group: for `dlq list`, `audit` and replay jobs."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing

from kafka import KafkaConsumer, TopicPartition

from consumers.kafka.admin import existing_topics, log_ranges
from consumers.kafka.connection import KafkaSettings, kafka_errors, open_admin, open_consumer
from consumers.kafka.internals import source_record
from pipeline.errors import Unavailable
from pipeline.records import KafkaPartition, Position, SourceRecord

_POLL_MS = 500
_PATIENCE = 60
"""Empty polls in a row (30 s) after which the broker counts as gone."""
_WINDOW = 1_000


def offsets_at(settings: KafkaSettings, topics: Collection[str], timestamp_ms: int) -> dict[KafkaPartition, int]:
    """Offset of the first record at or after the time on each Kafka partition; the end where there is none.

    Raises UsageError for a missing topic, Unavailable.
    """
    with closing(open_admin(settings)) as admin:
        names = [(topic, n) for topic, info in existing_topics(admin, topics).items() for n in range(info.partitions)]
        with kafka_errors("offsets by time"):
            ranges = log_ranges(admin, names)
            found = admin.list_partition_offsets({TopicPartition(*name): timestamp_ms for name in names})
    at = {name: found[TopicPartition(*name)].offset for name in names}
    return {name: offset if offset >= 0 else ranges[name][1] for name, offset in at.items()}


def topic_ranges(settings: KafkaSettings, topics: Collection[str]) -> dict[KafkaPartition, tuple[int, int]]:
    """First offset held and end offset of every Kafka partition. Raises UsageError for a missing topic, Unavailable."""
    with closing(open_admin(settings)) as admin:
        names = [(topic, n) for topic, info in existing_topics(admin, topics).items() for n in range(info.partitions)]
        with kafka_errors("the first and last offsets of the topics"):
            return log_ranges(admin, names)


def read_range(settings: KafkaSettings, ranges: Mapping[KafkaPartition, tuple[int, int]]) -> Iterator[SourceRecord]:
    """Every record whose offset is in [start, end) of its Kafka partition, each partition in order.

    The ends must exist already (see `topic_ranges`). Records that the topic no longer holds are left out.
    Raises Unavailable when the broker stops answering.
    """
    with closing(open_consumer(settings, group=False)) as consumer:
        yield from _read(consumer, ranges)


def records_at(settings: KafkaSettings, positions: Iterable[Position]) -> Iterator[SourceRecord]:
    """The records at these positions, in the order of their offsets; those that the topic no longer holds are left out.

    Raises Unavailable when the broker stops answering.
    """
    windows: dict[KafkaPartition, list[list[int]]] = {}
    for position in sorted(positions):
        near = windows.setdefault(position[:2], [])
        if near and position.offset - near[-1][-1] < _WINDOW:
            near[-1].append(position.offset)
        else:
            near.append([position.offset])
    with closing(open_consumer(settings, group=False)) as consumer:
        while windows:
            wanted = {name: near.pop(0) for name, near in windows.items()}
            for record in _read(consumer, {name: (some[0], some[-1] + 1) for name, some in wanted.items()}):
                if record.position.offset in wanted[record.position[:2]]:
                    yield record
            windows = {name: near for name, near in windows.items() if near}


def newest(
    settings: KafkaSettings, topic: str, limit: int, keep: Callable[[SourceRecord], bool] = lambda _: True
) -> list[SourceRecord]:
    """The last `limit` records of the topic that pass `keep`, the newest first (by offset; then by Kafka partition).

    Looks back from the end at the time of the call, window by window. Raises UsageError for a missing topic,
    Unavailable.
    """
    left = topic_ranges(settings, (topic,))
    found: list[SourceRecord] = []
    size = min(limit, _WINDOW)
    with closing(open_consumer(settings, group=False)) as consumer:
        while len(found) < limit and any(start < end for start, end in left.values()):
            window = {name: (max(start, end - size), end) for name, (start, end) in left.items() if start < end}
            records = [record for record in _read(consumer, window) if keep(record)]
            found += sorted(records, key=lambda record: (-record.position.offset, record.position.partition))
            left = {name: (left[name][0], start) for name, (start, _) in window.items()}
            size = min(2 * size, _WINDOW)  # the last few are often enough, and a record may have a megabyte
    return found[:limit]


def _read(consumer: KafkaConsumer, ranges: Mapping[KafkaPartition, tuple[int, int]]) -> Iterator[SourceRecord]:
    ends = {TopicPartition(*name): end for name, (start, end) in ranges.items() if start < end}
    if not ends:
        return
    consumer.assign(list(ends))
    held = consumer.beginning_offsets(list(ends))
    for tp in ends:
        consumer.seek(tp, max(held[tp], ranges[tp.topic, tp.partition][0]))
    open_ends = {tp for tp, end in ends.items() if held[tp] < end}
    empty = 0
    while open_ends:
        with kafka_errors("reading"):
            batches = consumer.poll(timeout_ms=_POLL_MS)
        empty = 0 if batches else empty + 1
        if empty >= _PATIENCE:
            raise Unavailable("Kafka has not answered for 30 s while a range was read")
        for tp, batch in batches.items():
            for raw in batch:
                if raw.offset < ends[tp]:
                    yield source_record(raw)
        # By position and not by the last record: compaction and transactions leave holes, also at the end.
        open_ends = {tp for tp in open_ends if (consumer.position(tp) or 0) < ends[tp]}
