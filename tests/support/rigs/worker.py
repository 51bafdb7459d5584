"""An ingest worker joined by the product's own wiring, over Kafka and Milvus in memory, on a thread of the test."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consumers.config import Settings
from consumers.dead_letters import DeadLetterLimiter, DeadLetterLimits
from consumers.ingest import Summary
from consumers.kafka import Source
from consumers.wiring.collection import open_writer
from consumers.wiring.connections import kafka_settings
from consumers.wiring.ingest import WorkerParts, ingest_metrics, join_worker, position_memory
from pipeline.backoff import Backoff
from pipeline.embedding import HashEmbedder
from pipeline.ingest import REFUSALS, CommitQueue, RedoBounds, RefusalLimit
from pipeline.records import Chunk
from pipeline.store import (
    AppendWriter,
    Marks,
    MilvusPartitions,
    Partitioning,
    SweepPolicy,
    TombstoneSweep,
    UpsertWriter,
    WritePolicy,
    Writer,
)
from pipeline.store.milvus.write_lease import Lease, LeftS
from pipeline.store.writing.requests.unlisted_answers import UnlistedPolicy
from tests.support.fakes.kafka import FakeBroker, FakeDeadLetters, FakeLookup, FakeSource
from tests.support.fakes.milvus import FakeMilvus
from tests.support.waiting import eventually

TOPIC, DEAD_LETTERS, GROUP, COLLECTION = "documents", "documents.dlq", "group", "documents"
NOON = 1_795_003_200_000
"""2026-11-18T12:00:00Z."""


class MarkedNan(HashEmbedder):
    """Gives NaN for a chunk that says so."""

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        vectors = super().embed(chunks)
        for index, chunk in enumerate(chunks):
            if "NAN" in chunk.text:
                vectors[index, 0] = np.nan
        return vectors


class Connection:
    """One worker's connection to a Milvus that several share: the lease is its own."""

    def __init__(self, milvus: FakeMilvus) -> None:
        self._milvus = milvus
        self._lease = Lease()

    def fence(self, left_s: LeftS) -> None:
        self._lease.bind(left_s)

    def unfenced(self) -> AbstractContextManager[None]:
        return self._lease.waived()

    def upsert(self, *arguments: Any) -> None:
        self._lease.bounded(1.0)
        self._milvus.upsert(*arguments)

    def delete(self, *arguments: Any) -> None:
        self._lease.bounded(1.0)
        self._milvus.delete(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._milvus, name)


class Counting(HashEmbedder):
    """Records the texts it embeds."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.texts: list[str] = []

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        self.texts += [chunk.text for chunk in chunks]
        return super().embed(chunks)


@dataclass
class Rig:
    """The parts of one worker; make several with one broker and one Milvus for a group."""

    broker: FakeBroker = field(default_factory=FakeBroker)
    milvus: FakeMilvus = field(default_factory=FakeMilvus)
    embedder: HashEmbedder = field(default_factory=lambda: HashEmbedder("hash:8"))
    durability: Any = "ack"
    shutdown_s: float = 5.0
    buffer_bytes: int = 2**20
    until_caught_up: bool = False
    max_records: int | None = None
    retry_s: float = 0.01
    session_s: float = 5.0
    limits: DeadLetterLimits = field(default_factory=DeadLetterLimits)
    sweep: SweepPolicy | None = None
    version_field: str | None = None
    accept_gap: bool = False
    now_ms: int = NOON + 3_600_000
    """The worker's clock, which is at rest."""
    max_event_age: timedelta | None = None
    max_partitions: int = 1000
    append: bool = False
    """Append mode, two batches at a time."""
    unlisted: UnlistedPolicy | None = None
    """When answers in unlisted words refuse a document; None: the product's own rule, too slow for a test."""
    refusals: RefusalLimit = REFUSALS
    registry_url: str | None = None

    def __post_init__(self) -> None:
        settings = self._settings()
        self.connection: Any = Connection(self.milvus)
        self.metrics = ingest_metrics()
        self.receipts = CommitQueue()
        self.dead_letters = FakeDeadLetters(
            self.broker,
            DEAD_LETTERS,
            on_confirmed=self.receipts.put,
            on_sent=lambda reason: self.metrics.dead_letters.labels(reason).inc(),
        )
        kafka, marks = kafka_settings(settings), Marks(self.connection, COLLECTION)
        self.memory = position_memory(settings, kafka, self.connection, marks)
        self.source = FakeSource(self.broker, kafka, memory=self.memory, accept_gap=self.accept_gap)
        self.bounds = RedoBounds()
        writer = open_writer(settings, self.connection, self.embedder, self.metrics, durable=self.bounds.durable)
        if self.unlisted is not None:
            writer = self._quick_writer(self.unlisted)
        parts = WorkerParts(
            api=self.connection,
            model=self.embedder,
            source=self._member(),
            writer=writer,
            dead_letters=self.dead_letters,
            receipts=self.receipts,
            metrics=self.metrics,
            limits=DeadLetterLimiter(self.limits),
            positions=self.memory,
            tombstones=None
            if self.sweep is None
            else TombstoneSweep(
                self.connection, COLLECTION, self.sweep, wall_clock=lambda: max(time.time(), NOON / 1000) + 3600
            ),
            retry=Backoff(self.retry_s, 0.05),
            lookup=None if self.append else FakeLookup(self.broker),
            bounds=self.bounds,
            refusals=self.refusals,
            set_aside_s=0.05,
            wall_clock=lambda: self.now_ms / 1000,
        )
        self.worker, self.flow = join_worker(
            settings, parts, until_caught_up=self.until_caught_up, max_records=self.max_records
        )
        self.stop = threading.Event()
        self.summary: Summary | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _quick_writer(self, unlisted: UnlistedPolicy) -> Writer:
        partitions, policy = MilvusPartitions(self.connection, COLLECTION), WritePolicy(unlisted=unlisted)
        if self.append:
            return AppendWriter(self.connection, COLLECTION, partitions, Partitioning("day"), policy)
        return UpsertWriter(self.connection, COLLECTION, partitions, Partitioning("day"), policy, fingerprint="model")

    def _member(self) -> Source:
        """The worker's source: the fake one, unless a subclass reads a real broker."""
        return self.source

    def _settings(self) -> Settings:
        return Settings.model_validate(
            {
                "mode": "append" if self.append else "upsert",
                "record": {"version_field": self.version_field},
                "registry": {"url": self.registry_url},
                "kafka": {
                    "bootstrap_servers": "fake:9092",
                    "topics": TOPIC,
                    "dead_letter_topic": DEAD_LETTERS,
                    "group_id": GROUP,
                    "session_timeout": timedelta(seconds=self.session_s),
                },
                "milvus": {
                    "collection": COLLECTION,
                    "durability": self.durability,
                    "flush_interval": timedelta(milliseconds=50),
                    "index": {"type": "FLAT"},
                },
                "partitioning": {"max_event_age": self.max_event_age, "max_partitions": self.max_partitions},
                "chunking": {"max_tokens": 16, "overlap": 4},
                "batch": {
                    "max_records": 10,
                    "max_bytes": 2**20,
                    "max_wait": timedelta(milliseconds=10),
                    "buffer_bytes": self.buffer_bytes,
                },
                "shutdown_timeout": timedelta(seconds=self.shutdown_s),
            }
        )

    def _run(self) -> None:
        try:
            self.summary = self.worker.run(self.stop)
        except BaseException as error:
            self.error = error

    def start(self) -> None:
        """Run the worker in the background."""
        self._thread.start()

    def run_to_its_end(self) -> Summary:
        """Run a worker that ends by itself."""
        self.start()
        return self.ended()

    def ended(self, within: float = 20.0) -> Summary:
        """Wait for the end; raises what the worker raised."""
        self._thread.join(within)
        assert not self._thread.is_alive(), "the worker has not ended"
        if self.error is not None:
            raise self.error
        assert self.summary is not None
        return self.summary

    def committed(self) -> dict[int, int]:
        """Committed offsets by Kafka partition, those above 0."""
        return {number: offset for (_, number), offset in self.broker.committed(GROUP).items() if offset}

    def texts(self) -> dict[str, list[str]]:
        """Texts of the chunks stored, by doc_id, over all Milvus partitions."""
        documents: dict[str, dict[int, str]] = {}
        for rows in self.milvus.stored(COLLECTION).values():
            for row in rows.values():
                chunks = documents.setdefault(row["doc_id"], {})
                assert row["chunk"] not in chunks, f"{row['doc_id']} is stored twice"
                chunks[row["chunk"]] = row["text"]
        return {doc_id: [chunks[index] for index in sorted(chunks)] for doc_id, chunks in documents.items()}

    def outcome(self, name: str) -> float:
        """`ingest_records_total` with this outcome."""
        return self.metrics.registry.get_sample_value("ingest_records_total", {"outcome": name}) or 0.0


@contextmanager
def running(rig: Rig) -> Iterator[Rig]:
    """Run the worker for the length of the block, then stop it; an error of the worker fails the test."""
    rig.start()
    try:
        yield rig
    finally:  # also after a failure: a worker that waits for Milvus would keep the process from ending
        rig.stop.set()
    rig.ended()


def document(doc_id: str, text: str = "some words", **more: object) -> bytes:
    """A record's value."""
    return json.dumps({"id": doc_id, "text": text, "event_time": NOON, **more}).encode()


def soon(probe: Callable[[], object]) -> None:
    """Wait until something holds."""
    eventually(lambda: bool(probe()), within=10)
