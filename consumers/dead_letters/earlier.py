"""The dead letters that the topic has already: a record that is read again is not sent a second time."""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import TypeAlias

from consumers.dead_letters.envelope import PIPELINE_HEADER, DeadLetter, OutgoingDeadLetter, decode_dead_letter
from consumers.kafka import KafkaSettings, read_range, topic_ranges
from pipeline.records import Position

_WINDOW = 1_000
_MOST_RECORDS = 20_000
_MOST_BYTES = 64 * 2**20
"""The end of the topic that is read, of each of its Kafka partitions. What a redo rejects again was sent since the last
commit, so it is there; where more was sent since then, some dead letters are repeated."""

Origin: TypeAlias = tuple[bytes, str, Position, bytes]
"""Group that rejected a record, and the record's topic id, position and digest."""


class EarlierDeadLetters:
    """The end of the dead-letter topic, by the records it is about. Not thread-safe."""

    def __init__(self, read: Callable[[], Iterable[DeadLetter]]) -> None:
        """`read` gives the end of the topic, in any order."""
        self._read = read
        self._contents: set[Origin] = set()
        self._confirmed: dict[Origin, None] = {}
        """The newest ones sent by this process, oldest first."""
        self._unread = True

    def assigned(self) -> None:
        """Read the topic again before the next answer: other workers may have sent dead letters."""
        self._unread = True

    def holds(self, dead_letter: OutgoingDeadLetter) -> bool:
        """Whether the topic has this dead letter. Raises Unavailable, UsageError."""
        if self._unread:
            self._contents = {content for found in self._read() for content in _whole(found)}
            self._unread = False
        origin = _origin(dead_letter)
        return origin in self._contents or origin in self._confirmed

    def confirmed(self, dead_letter: OutgoingDeadLetter) -> None:
        """The topic has this dead letter from now on: sent since the topic was read, so `holds` would not find it."""
        self._confirmed[_origin(dead_letter)] = None
        if len(self._confirmed) > _MOST_RECORDS:  # far more than can wait to be sent a second time
            del self._confirmed[next(iter(self._confirmed))]


def newest_dead_letters(settings: KafkaSettings, topic: str) -> Iterator[DeadLetter]:
    """Read the end of the dead-letter topic. Raises Unavailable, UsageError."""
    for name, (start, end) in topic_ranges(settings, (topic,)).items():
        size, first = 0, end
        while first > start and end - first < _MOST_RECORDS and size < _MOST_BYTES:
            first, before = max(start, first - _WINDOW), first
            for record in read_range(settings, {name: (first, before)}):
                size += record.size
                yield decode_dead_letter(record)


def _whole(found: DeadLetter) -> Iterator[Origin]:
    """The record that the dead letter is about, unless it was cut: such a one is sent again."""
    if found.topic_id and found.partition is not None and found.offset is not None and not found.truncated:
        position = Position(found.topic, found.partition, found.offset)
        digest = _digest(found.record.key, found.record.value, found.timestamp_ms)
        yield _group(found.record.headers), found.topic_id, position, digest


def _origin(dead_letter: OutgoingDeadLetter) -> Origin:
    # The position alone is not enough: after a log has lost its end, another record has it.
    digest = _digest(dead_letter.key, dead_letter.value, dead_letter.timestamp_ms)
    return _group(dead_letter.headers), dead_letter.topic_id, dead_letter.position, digest


def _group(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    """Another group may use the same topic, and reject the record for a reason of its own."""
    return next((value or b"" for name, value in headers if name == PIPELINE_HEADER), b"")


def _digest(key: bytes | None, value: bytes | None, timestamp_ms: int) -> bytes:
    digest = blake2b(digest_size=16)
    for part in (key, value):
        digest.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    digest.update(b"%d" % timestamp_ms)
    return digest.digest()
