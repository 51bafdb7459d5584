"""Leader epochs: under which leader of its Kafka partition a record was written.

An offset committed with the epoch of the record before it shows later whether the log still holds that record: a log
that lost its end, and was filled again, has the same offsets with other records.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import TopicPartition

from pipeline.records import KafkaPartition

UNKNOWN = -1
_EPOCH, _OFFSET = 2, 3
"""Fields of kafka-python's record."""


class LeaderEpochs:
    """The epochs of the records read, by Kafka partition; some entries, because an epoch changes with its leader."""

    def __init__(self) -> None:
        self._begins: dict[KafkaPartition, list[tuple[int, int]]] = {}
        """(first offset, epoch) in rising order."""

    def begin(self, partition: KafkaPartition, offset: int, epoch: int) -> None:
        """Reading begins at this offset, which was committed with this epoch of the record before it."""
        self._begins[partition] = [(offset - 1, epoch)]

    def observe(self, batches: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """Take note of polled records; looks at two of each Kafka partition, unless the leader has changed."""
        for partition, records in batches.items():
            begins = self._begins.setdefault((partition.topic, partition.partition), [])
            known = begins[-1][1] if begins else None
            if not records or records[0][_EPOCH] == records[-1][_EPOCH] == known:
                continue
            for record in records:
                if record[_EPOCH] != known:
                    known = record[_EPOCH]
                    begins.append((record[_OFFSET], known))

    def before(self, partition: KafkaPartition, offset: int) -> int:
        """The epoch of the record before this offset; -1 if it is unknown. Earlier ones are forgotten."""
        begins = self._begins.get(partition)
        place = bisect_right(begins, offset - 1, key=_first) if begins else 0
        if not begins or not place:
            return UNKNOWN
        del begins[: place - 1]
        return begins[0][1]


def _first(entry: tuple[int, int]) -> int:
    return entry[0]
