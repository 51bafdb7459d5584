"""Records and offsets of topics, read without a group."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing

from kafka import KafkaConsumer, TopicPartition

from consumers.kafka.client.connection import KafkaSettings, open_admin, open_consumer
from consumers.kafka.client.errors import kafka_errors
from consumers.kafka.records.source_record import source_record
from consumers.kafka.topics.admin import EARLIEST, LATEST, all_partitions, log_ranges, stable_offsets
from pipeline.errors import Unavailable
from pipeline.records import KafkaPartition, Position, SourceRecord

_POLL_MS = 500
_SILENT_S = 30.0
"""Time without a record after which the broker counts as unavailable."""
_WINDOW = 1_000
"""Offsets read at a time."""

Range = tuple[int, int]
"""Offsets [start, end) of a Kafka partition."""


def offsets_at(settings: KafkaSettings, topics: Collection[str], timestamp_ms: int) -> dict[KafkaPartition, int]:
    """Find the first record at or after the time on each Kafka partition; the end if there is none.

    Raises UsageError for a missing topic, Unavailable.
    """
    with closing(open_admin(settings)) as admin:
        partitions = all_partitions(admin, topics)
        with kafka_errors("offsets by time"):
            ranges = log_ranges(admin, partitions)
            answers = admin.list_partition_offsets({TopicPartition(*name): timestamp_ms for name in partitions})
    offsets = {name: answers[TopicPartition(*name)].offset for name in partitions}
    return {name: offset if offset >= 0 else ranges[name][1] for name, offset in offsets.items()}


def topic_ranges(settings: KafkaSettings, topics: Collection[str]) -> dict[KafkaPartition, Range]:
    """Read the first offset held and the end offset of every Kafka partition.

    Raises UsageError for a missing topic, Unavailable.
    """
    with closing(open_admin(settings)) as admin:
        partitions = all_partitions(admin, topics)
        with kafka_errors("the first and last offsets of the topics"):
            return log_ranges(admin, partitions)


def stable_ranges(settings: KafkaSettings, topics: Collection[str]) -> dict[KafkaPartition, Range]:
    """Read the same as `topic_ranges`, with each end before the first transaction that is still open.

    Raises UsageError for a missing topic, Unavailable.
    """
    with closing(open_admin(settings)) as admin:
        partitions = all_partitions(admin, topics)
        with kafka_errors("the first and last offsets of the topics"):
            starts, ends = (stable_offsets(admin, partitions, spec) for spec in (EARLIEST, LATEST))
    return {name: (starts[name], ends[name]) for name in partitions}


def read_range(settings: KafkaSettings, ranges: Mapping[KafkaPartition, Range]) -> Iterator[SourceRecord]:
    """Read every record of the ranges, each Kafka partition in order.

    The ends must exist already (`topic_ranges`). Records that the topic no longer holds are left out. Raises
    Unavailable when the broker stops answering.
    """
    with closing(open_consumer(settings, group=False)) as consumer:
        yield from _read(consumer, ranges)


def records_at(settings: KafkaSettings, positions: Iterable[Position]) -> Iterator[SourceRecord]:
    """Read the records at these positions, in the order of their offsets.

    Records that the topic no longer holds are left out. Raises Unavailable when the broker stops answering.
    """
    windows: dict[KafkaPartition, list[list[int]]] = {}
    for position in sorted(positions):
        partition_windows = windows.setdefault(position[:2], [])
        if partition_windows and position.offset - partition_windows[-1][-1] < _WINDOW:
            partition_windows[-1].append(position.offset)
        else:
            partition_windows.append([position.offset])
    with closing(open_consumer(settings, group=False)) as consumer:
        while windows:
            wanted = {name: partition_windows.pop(0) for name, partition_windows in windows.items()}
            ranges = {name: (offsets[0], offsets[-1] + 1) for name, offsets in wanted.items()}
            for record in _read(consumer, ranges):
                if record.position.offset in wanted[record.position[:2]]:
                    yield record
            windows = {name: partition_windows for name, partition_windows in windows.items() if partition_windows}


def newest(
    settings: KafkaSettings, topic: str, limit: int, keep: Callable[[SourceRecord], bool] = lambda _: True
) -> list[SourceRecord]:
    """Read the last `limit` records of the topic that pass `keep`, the newest first (by offset, then Kafka partition).

    Reads backwards, window by window, from the end at the time of the call. Raises UsageError for a missing topic,
    Unavailable.
    """
    unread = topic_ranges(settings, (topic,))
    newest_records: list[SourceRecord] = []
    size = min(limit, _WINDOW)
    with closing(open_consumer(settings, group=False)) as consumer:
        while len(newest_records) < limit and any(start < end for start, end in unread.values()):
            window = {name: (max(start, end - size), end) for name, (start, end) in unread.items() if start < end}
            records = [record for record in _read(consumer, window) if keep(record)]
            newest_records += sorted(records, key=lambda record: (-record.position.offset, record.position.partition))
            unread = {name: (unread[name][0], start) for name, (start, _) in window.items()}
            size = min(2 * size, _WINDOW)  # the last few are often enough, and a record may have a megabyte
    return newest_records[:limit]


def _read(consumer: KafkaConsumer, ranges: Mapping[KafkaPartition, Range]) -> Iterator[SourceRecord]:
    ends = _seek(consumer, ranges)
    silent_since = time.monotonic()
    # Ended by position and not by the last record: compaction and transactions leave holes, also at the end.
    while unread := {tp for tp, end in ends.items() if (consumer.position(tp) or 0) < end}:
        with kafka_errors("reading"):
            batches = consumer.poll(timeout_ms=_POLL_MS)
        if batches:
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since >= _SILENT_S:
            names = ", ".join(f"{tp.topic}/{tp.partition}" for tp in sorted(unread))
            raise Unavailable(f"Kafka has not answered for {_SILENT_S:.0f} s while a range of {names} was read")
        yield from (source_record(raw) for tp, batch in batches.items() for raw in batch if raw.offset < ends[tp])


def _seek(consumer: KafkaConsumer, ranges: Mapping[KafkaPartition, Range]) -> dict[TopicPartition, int]:
    """Assign the consumer to the ranges that are not empty; returns the end of each."""
    ends = {TopicPartition(*name): end for name, (start, end) in ranges.items() if start < end}
    if not ends:
        return {}
    consumer.assign(list(ends))
    with kafka_errors("the first offsets of the topics"):
        first_held = consumer.beginning_offsets(list(ends))
    for tp in ends:
        consumer.seek(tp, max(first_held[tp], ranges[tp.topic, tp.partition][0]))
    return ends
