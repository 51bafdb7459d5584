"""What of kafka-python's internals is replaced: how fetched batches become records, within bounds.

kafka-python 3.0 unpacks a whole batch before the size of a record is known, and stops for ever at a header name that is
not UTF-8. Here a batch is unpacked piece by piece, a record too large to be held is cut on the way, and a record with
such a name is handed on with a defect, which dead-letters it.
"""

from collections.abc import Iterator
from typing import Any

import kafka
from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.errors import KafkaError

from consumers.kafka.batches import HEADER_COST, Batches, MarkedHeaders, ReadLimits
from consumers.kafka.unpacking import Unpackable, missing
from pipeline.errors import UsageError
from pipeline.records import Position, SourceRecord

_KNOWN = (3, 0)
"""kafka-python's version whose internals these are."""


class UnreadableBatch(KafkaError):  # type: ignore[misc]  # kafka-python ships no types
    """A batch that cannot be unpacked here; the message names its place and what to do."""


def check_client() -> None:
    """Raises UsageError for a kafka-python whose internals are others, or without the package of a codec."""
    if tuple(int(part) for part in kafka.__version__.split(".")[:2]) != _KNOWN:
        raise UsageError(
            f"kafka-python {kafka.__version__} is installed; milvus-stream reads with the internals of "
            f"{'.'.join(map(str, _KNOWN))}: pip install 'kafka-python=={'.'.join(map(str, _KNOWN))}.*'"
        )
    lacking = missing()
    if lacking:
        raise UsageError(
            f"records compressed with {' and '.join(codec.name for codec in lacking)} cannot be read, because of "
            f"missing packages: pip install {' '.join(codec.package for codec in lacking)}"
        )


def bound(consumer: KafkaConsumer, limits: ReadLimits) -> None:
    """Make the consumer read within the limits; its poll may then raise UnreadableBatch, too."""
    fetcher = consumer._fetcher
    fetcher.__class__ = _BoundedFetcher
    fetcher.limits = limits


def source_record(raw: Any, topic_id: str = "") -> SourceRecord:
    """kafka-python's record as ours."""
    # Tuple unpacking reads kafka-python's record about twice as fast as its attributes.
    topic, partition, _, offset, timestamp, _, key, value, headers, _, _, _, _ = raw
    defect = headers.defect if type(headers) is MarkedHeaders else None
    return SourceRecord(
        Position(topic, partition, offset), timestamp, key, value, tuple(headers) if headers else (), topic_id, defect
    )


class _BoundedRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The records of one fetch of a Kafka partition."""

    room = 0
    """Bytes that may still be taken in this poll."""
    limits: ReadLimits

    def _unpack_records(self, tp: Any, records: Any, *deserializers: Any) -> Iterator[Any]:
        return super()._unpack_records(tp, self._batches(records._buffer), *deserializers)  # type: ignore[no-any-return]

    def _batches(self, fetched: Any) -> "Batches":
        return Batches(fetched, lambda: self.limits)

    def take(self, n: int | None = None) -> list[Any]:
        self._maybe_raise_next_inline_exception()
        records: list[Any] = []
        iterator, start = self.record_iterator, self.bytes_read
        try:
            while (n is None or len(records) < n) and self.bytes_read - start < self.room:
                record = next(iterator, None)
                if record is None:
                    break
                records.append(record)
                self.room -= HEADER_COST * len(record[8])
        except (KafkaError, Unpackable) as error:  # as kafka-python does: what came before is handed on first
            found: Exception = error
            if isinstance(error, Unpackable):
                place = (
                    f"{self.topic_partition.topic}/{self.topic_partition.partition}, offset {self.next_fetch_offset}"
                )
                found = UnreadableBatch(f"the batch at {place} {error}")
                found.__cause__ = error
            if not records:
                raise found from error
            self._next_inline_exception = found
        self.room -= self.bytes_read - start
        return records


class _BoundedFetcher(Fetcher):  # type: ignore[misc]
    """A fetcher whose polls end at a number of bytes, too."""

    limits: ReadLimits
    _room = 0
    PartitionRecords = _BoundedRecords

    def fetched_records(self, max_records: int | None = None, update_offsets: bool = True) -> Any:
        self._room = self.limits.poll_bytes
        return super().fetched_records(max_records, update_offsets)

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> Any:
        if not part:
            return super()._append(drained, part, max_records, update_offsets)
        part.limits, part.room = self.limits, self._room
        taken = super()._append(drained, part, max_records, update_offsets)
        self._room = part.room
        return taken if self._room > 0 else max_records  # the poll has its number of records, as it were
