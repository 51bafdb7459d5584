"""The records that a group has not committed yet, as far as they concern documents that somebody asks about."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from consumers.dead_letters.retry_transaction import stable_ranges
from consumers.dead_letters.selection import requested_operation, superseded
from consumers.kafka import KafkaSettings, read_range
from pipeline.intake import Decoder
from pipeline.records import Delete, KafkaPartition, Position
from pipeline.store import Entry, Key, final

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how many."""


@dataclass(frozen=True, slots=True)
class Committed:
    """How far the group has come on a Kafka partition."""

    offset: int | None
    start: int
    """First offset the log holds."""
    topic_id: str


class UncommittedTail:
    """What the group has not committed yet: the newest version there of each document that is asked about."""

    def __init__(self, kafka: KafkaSettings, decoder: Decoder, committed: Mapping[KafkaPartition, Committed]) -> None:
        self._kafka = kafka
        self._decoder = decoder
        self._next = {
            name: at.start if at.offset is None else max(at.start, at.offset) for name, at in committed.items()
        }
        self._topic_ids = {name[0]: at.topic_id for name, at in committed.items()}
        self._found: dict[Key, dict[KafkaPartition, Entry]] = {}

    def read(self, keys: Collection[Key], moved: Mapping[Position, Position], progress: Progress) -> None:
        """Take in what has come since; `keys` are the documents of interest, the same in every call."""
        ranges = stable_ranges(self._kafka, self._kafka.topics)
        left = {name: (self._next.get(name, start), end) for name, (start, end) in ranges.items()}
        total = sum(max(0, end - start) for start, end in left.values())
        for number, record in enumerate(read_range(self._kafka, left), 1):
            progress("reading what the group has not committed", number, total)
            asked = requested_operation(record, self._decoder, time.time_ns() // 1_000_000)
            if isinstance(asked, Delete) and asked.key in keys:
                entry = final(asked, None, {}, "")
                known = self._found.setdefault(asked.key, {})
                before = known.get(record.position[:2])
                # A record that was put back stands behind newer ones.
                if before is None or not superseded(_at(asked, moved), [before], moved):
                    known[record.position[:2]] = entry
        self._next = {name: end for name, (_, end) in left.items()}

    def entries(self, key: Key) -> Iterable[Entry]:
        """As ledger rows would tell of them."""
        return self._found.get(key, {}).values()


def _at(asked: Delete, moved: Mapping[Position, Position]) -> Delete:
    origin = moved.get(asked.position, asked.position)
    return Delete(origin, asked.timestamp_ms, asked.doc_id, asked.tenant, asked.version, asked.topic_id)
