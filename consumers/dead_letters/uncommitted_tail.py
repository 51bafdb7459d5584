"""The uncommitted tail of the topics: records that a group has not committed yet, of the documents of a retry."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from consumers.dead_letters.selection import requested_operation, superseded
from consumers.kafka import KafkaSettings, read_range, stable_ranges
from pipeline.intake import Decoder
from pipeline.records import Delete, KafkaPartition, Position
from pipeline.store import Entry, Key, final

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, the number of things done in it, and their total."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The progress of a group on a Kafka partition."""

    offset: int | None
    start: int
    """First offset the log holds."""
    topic_id: str


class UncommittedTail:
    """The newest version of each document of a retry among the records that the group has not committed."""

    def __init__(self, kafka: KafkaSettings, decoder: Decoder, committed: Mapping[KafkaPartition, Committed]) -> None:
        self._kafka = kafka
        self._decoder = decoder
        self._next = {
            name: at.start if at.offset is None else max(at.start, at.offset) for name, at in committed.items()
        }
        self._entries: dict[Key, dict[KafkaPartition, Entry]] = {}

    def read(self, keys: Collection[Key], moved: Mapping[Position, Position], progress: Progress) -> None:
        """Read the records that are new since the last call; `keys` are the documents, the same in every call."""
        ranges = stable_ranges(self._kafka, self._kafka.topics)
        unread = {name: (self._next.get(name, start), end) for name, (start, end) in ranges.items()}
        total = sum(max(0, end - start) for start, end in unread.values())
        for number, record in enumerate(read_range(self._kafka, unread), 1):
            progress("reading the uncommitted records", number, total)
            operation = requested_operation(record, self._decoder, time.time_ns() // 1_000_000)
            if isinstance(operation, Delete) and operation.key in keys:
                entries = self._entries.setdefault(operation.key, {})
                before = entries.get(record.position[:2])
                # A retried record is behind newer ones.
                first = replace(operation, position=moved.get(operation.position, operation.position))
                if before is None or not superseded(first, [before], moved):
                    entries[record.position[:2]] = final(operation, None, {}, "", before)
        self._next = {name: end for name, (_, end) in unread.items()}

    def entries(self, key: Key) -> Iterable[Entry]:
        """Return the versions of the document as ledger entries."""
        return self._entries.get(key, {}).values()
