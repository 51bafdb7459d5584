"""Crashes as data: a list of records with the points at which the worker dies, and the rows that remain in the end.

Kafka and Milvus are in memory, and so is the worker: at its end every call to either is cut off, as by kill -9. Its
threads go on until their next call, which reaches nothing any more.
"""

import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from structlog.testing import capture_logs

from pipeline import failpoints
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import HashEmbedder
from pipeline.store.writing.ledger.ledger_rows import row_entry
from tests.support.fakes.kafka import FakeBroker
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, GROUP, NOON, TOPIC, Rig, document
from tests.support.waiting import eventually

KAFKA_PARTITIONS = 2
BATCH = 10
"""Records of a worker's batch: so many are published before the next one of a key, and the batches differ."""
MAX_EVENT_AGE = timedelta(days=10)
"""Older records are rejected."""
_DAY_MS = 86_400_000
_WITHIN_S = 15.0


class Crashed(BaseException):
    """The process has ended: no edge of a thread may take this for a failure that can be handled."""


@dataclass(frozen=True)
class Record:
    """A record of one document, whose key decides its Kafka partition."""

    doc_id: str
    value: bytes | None
    text: str = ""
    days_ago: int = 0
    """Which Milvus partition its rows are in."""
    rejected: bool = False

    @property
    def kafka_partition(self) -> int:
        return zlib.crc32(self.doc_id.encode()) % KAFKA_PARTITIONS


@dataclass(frozen=True)
class CRASH:
    """The worker that reads what is before this in the list ends at the `nth` time it reaches the named point."""

    point: str
    nth: int = 1


@dataclass(frozen=True)
class REBALANCE:
    """A second worker joins while the first one runs."""


@dataclass(frozen=True)
class LATER:
    """The workers that start after this in the list start so much later."""

    hours: int


Step = Record | CRASH | REBALANCE | LATER


def put(doc_id: str, text: str = "", *, days_ago: int = 0) -> Record:
    """A document; its text is its id if none is given."""
    text = text or f"text of {doc_id}"
    return Record(doc_id, document(doc_id, text, event_time=NOON - days_ago * _DAY_MS), text, days_ago)


def delete(doc_id: str) -> Record:
    """A tombstone."""
    return Record(doc_id, None)


def aging(doc_id: str, text: str, *, days_ago: int) -> Record:
    """A document that is stored now, and rejected as too old `LATER`."""
    return replace(put(doc_id, text, days_ago=days_ago), rejected=True)


def broken(doc_id: str) -> Record:
    """A record that cannot be read."""
    return Record(doc_id, b'{"id": "%s", "text": ' % doc_id.encode(), rejected=True)


def others(count: int, name: str = "other") -> list[Record]:
    """Documents that fill a batch."""
    return [put(f"{name}{number}") for number in range(count)]


def long(first: str, words: int = 60) -> str:
    """A text of several chunks."""
    return " ".join(f"{first}{number}" for number in range(words))


@dataclass
class Outcome:
    """What is in Kafka and Milvus when everything has been read."""

    rows: list[tuple[str, int, int, str]]
    """(doc_id, days ago, chunk, text), sorted; every copy is there."""
    dead_letters: set[bytes]
    """Their values; a crash may send one twice."""


def rows(*records: Record) -> list[tuple[str, int, int, str]]:
    """The rows that these records have when each of them is stored."""
    chunker = Chunker(HashEmbedder("hash:8").tokenizer, ChunkingPolicy(16, 4))
    chunks = chunker.chunk([record.text for record in records])
    return sorted(
        (record.doc_id, record.days_ago, number, chunk.text)
        for record, of_record in zip(records, chunks, strict=True)
        for number, chunk in enumerate(of_record)
    )


def run(script: Sequence[Step], *, append: bool = False, durability: str = "ack") -> Outcome:
    """Publish and crash in the order of the script; then one more worker reads to the end."""
    world = _World(append, durability)
    crowded = False
    with capture_logs():  # tracebacks of the dying take longer to print than all the rest
        for step in script:
            match step:
                case Record():
                    world.publish(step)
                case REBALANCE():
                    crowded = True
                case LATER(hours):
                    world.now_ms += hours * 3_600_000
                case CRASH():
                    (world.crash_at_rebalance if crowded else world.crash)(step)
                    crowded = False
                    world.expect_committed_is_stored()
        world.finish()
    return Outcome(world.rows(), {record.value or b"" for record in world.broker.read(DEAD_LETTERS)})


class _Link:
    """One worker's way to a server that others use, too; cut off when the worker dies."""

    def __init__(self, server: Any, life: "_Life") -> None:
        self._server = server
        self._life = life

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._server, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            self._life.require()
            if name == "join":
                self._life.memberships.append(arguments)
            return value(*arguments, **options)

        return call


@dataclass
class _Life:
    """Whether one worker's process still runs, and the groups it has joined."""

    ended: threading.Event = field(default_factory=threading.Event)
    memberships: list[tuple[Any, ...]] = field(default_factory=list)

    def require(self) -> None:
        if self.ended.is_set():
            raise Crashed


class _World:
    def __init__(self, append: bool, durability: str) -> None:
        self.broker = FakeBroker()
        self.broker.create_topic(TOPIC, KAFKA_PARTITIONS)
        self.broker.create_topic(DEAD_LETTERS, 1)
        self.milvus = FakeMilvus()
        self.now_ms = NOON + 3_600_000
        self._append = append
        self._durability = durability
        self._published: list[tuple[Record, int]] = []

    def publish(self, record: Record) -> None:
        at = self.broker.produce(TOPIC, record.value, key=record.doc_id.encode(), partition=record.kafka_partition)
        self._published.append((record, at.offset))

    def crash(self, step: CRASH) -> None:
        life = _Life()
        with _dying_at(step, life):
            worker = self._worker(life, until_caught_up=True)
            worker.start()
            self._bury(worker, life, step)

    def crash_at_rebalance(self, step: CRASH) -> None:
        life = _Life()
        with _dying_at(step, life):
            first = self._worker(life)
            first.start()
            eventually(lambda: len(first.source.assignment()) == KAFKA_PARTITIONS, within=_WITHIN_S)
            second = self._worker(_Life())
            second.start()
            self._bury(first, life, step)
        eventually(lambda: len(second.source.assignment()) == KAFKA_PARTITIONS, within=_WITHIN_S)
        second.stop.set()
        second.ended()

    def _bury(self, worker: Rig, life: _Life, step: CRASH) -> None:
        """Wait for the end of the worker; then its session ends, too."""
        try:
            worker.ended(_WITHIN_S)
        except BaseException:
            assert life.ended.is_set(), f"the worker failed before it came to {step}"
            _raise_unless_crashed(worker.error)
        assert life.ended.is_set(), f"the worker has ended and never came to {step}"
        for group, member in life.memberships:
            self.broker.leave(group, member)

    def finish(self) -> None:
        worker = self._worker(_Life(), until_caught_up=True)
        worker.start()
        assert worker.ended(_WITHIN_S).clean
        ends = dict.fromkeys(range(KAFKA_PARTITIONS), 0)
        for record, offset in self._published:
            ends[record.kafka_partition] = offset + 1
        assert worker.committed() == {number: end for number, end in ends.items() if end}
        if not self._append:
            assert not [row for row in self._stored(f"{COLLECTION}__ledger") if row_entry(row).pending]

    def rows(self) -> list[tuple[str, int, int, str]]:
        return sorted(
            (row["doc_id"], (NOON - row["event_time"]) // _DAY_MS, row["chunk"], row["text"])
            for row in self._stored(COLLECTION)
        )

    def expect_committed_is_stored(self) -> None:
        """Documents of which every record is committed have exactly their rows, with no worker running."""
        committed = self.broker.committed(GROUP)
        history: dict[str, list[Record]] = {}
        unfinished = set()
        for record, offset in self._published:
            history.setdefault(record.doc_id, []).append(record)
            if offset >= committed.get((TOPIC, record.kafka_partition), 0):
                unfinished.add(record.doc_id)
        wanted: list[Record] = []
        for doc_id in history.keys() - unfinished:
            records = [record for record in history[doc_id] if not record.rejected]
            wanted += [record for record in (records if self._append else records[-1:]) if record.value is not None]
        assert [row for row in self.rows() if row[0] not in unfinished] == rows(*wanted)

    def _worker(self, life: _Life, *, until_caught_up: bool = False) -> Rig:
        return Rig(
            broker=_Link(self.broker, life),  # type: ignore[arg-type]
            milvus=_Link(self.milvus, life),  # type: ignore[arg-type]
            append=self._append,
            durability=self._durability,
            now_ms=self.now_ms,
            max_event_age=MAX_EVENT_AGE,
            until_caught_up=until_caught_up,
        )

    def _stored(self, collection: str) -> list[dict[str, Any]]:
        return [row for held in self.milvus.stored(collection).values() for row in held.values()]


def _raise_unless_crashed(error: BaseException | None) -> None:
    """Raise what a dying worker says, unless it says that it is dying."""
    if error is not None and not isinstance(error, Crashed):
        raise error


@contextmanager
def _dying_at(step: CRASH, life: _Life) -> Iterator[None]:
    """Let the process of `life` end where the recovery tests with real processes end it."""
    before: Callable[[str], None] = failpoints.hit
    lock = threading.Lock()
    left = step.nth

    def hit(name: str) -> None:
        nonlocal left
        if name != step.point:
            return
        with lock:
            left -= 1
            dies = left == 0
        if dies:
            life.ended.set()
            raise Crashed

    failpoints.hit = hit
    try:
        yield
    finally:
        failpoints.hit = before  # type: ignore[assignment]
