"""A whole ingest worker over Kafka and Milvus in memory, run in a thread of the test."""

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from consumers.dead_letters.limits import DeadLetterLimiter, DeadLetterLimits
from consumers.ingest.worker import IngestWorker, Summary, WorkerPolicy
from consumers.kafka import KafkaSettings
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import HashEmbedder
from pipeline.ingest.batching import BatchPolicy
from pipeline.ingest.flow import FlowPolicy, IngestFlow
from pipeline.intake import Decoder, IntakeLimits, RecordMapping
from pipeline.records import Chunk, Receipt
from pipeline.store import (
    AppendWriter,
    Flusher,
    FlushGovernor,
    FlushPolicy,
    MilvusPartitions,
    SweepPolicy,
    TombstoneSweep,
    UpsertWriter,
)
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec, ledger_spec
from pipeline.store.milvus.write_lease import Lease, LeftS
from pipeline.telemetry.metrics import IngestMetrics
from tests.support.fakes.kafka import FakeBroker, FakeDeadLetters, FakeSource
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

    def upsert(self, *arguments: Any) -> None:
        self._lease.bounded(1.0)
        self._milvus.upsert(*arguments)

    def delete(self, *arguments: Any) -> None:
        self._lease.bounded(1.0)
        self._milvus.delete(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._milvus, name)


class Counting(HashEmbedder):
    """Remembers the texts it was asked for."""

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
    append: bool = False
    """Append mode, two batches at a time."""

    def __post_init__(self) -> None:
        if not self.milvus.collections():
            index = IndexSettings("FLAT")
            self.milvus.create_collection(
                documents_spec(COLLECTION, dimension=8, index=index, stamp={"name": "hash:8"}, bm25=False)
            )
            self.milvus.create_collection(ledger_spec(COLLECTION))
        self.connection: Any = Connection(self.milvus)
        self.receipts: deque[Receipt] = deque()
        self.metrics = IngestMetrics(CollectorRegistry())
        flusher = Flusher(
            self.connection,
            (COLLECTION, f"{COLLECTION}__ledger"),
            FlushPolicy(durability=self.durability, interval_s=0.05),
            on_durable=self.receipts.extend,
        )
        self.governor = FlushGovernor(flusher)
        self.dead_letters = FakeDeadLetters(self.broker, DEAD_LETTERS, on_confirmed=self.receipts.append)
        partitions = MilvusPartitions(self.connection, COLLECTION)
        self.flow = IngestFlow(
            decoder=Decoder(RecordMapping(), IntakeLimits(2**20, 600_000, None), append=self.append),
            chunker=Chunker(self.embedder.tokenizer, ChunkingPolicy(16, 4)),
            embedder=self.embedder,
            writer=AppendWriter(self.connection, COLLECTION, partitions, "day")
            if self.append
            else UpsertWriter(self.connection, COLLECTION, partitions, "day", fingerprint="f"),
            governor=self.governor,
            dead_letters=self.dead_letters,
            metrics=self.metrics,
            policy=FlowPolicy(
                append=self.append, writers=2 if self.append else 1, retry_delay_s=self.retry_s, retry_cap_s=0.05
            ),
            limits=DeadLetterLimiter(self.limits),
            tombstones=None
            if self.sweep is None
            else TombstoneSweep(self.connection, COLLECTION, self.sweep, wall_clock=lambda: NOON / 1000),
            owned=lambda: self.worker.owned,
            wall_clock=lambda: (NOON + 3_600_000) / 1000,
        )
        self.source = FakeSource(self.broker, KafkaSettings("fake:9092", (TOPIC,), GROUP, max_poll_records=10))
        self.connection.fence(
            lambda: -math.inf if self.flow.fenced else self.source.last_heartbeat() + self.session_s - time.monotonic()
        )
        self.worker = IngestWorker(
            source=self.source,
            flow=self.flow,
            governor=self.governor,
            dead_letters=self.dead_letters,
            receipts=self.receipts,
            metrics=self.metrics,
            policy=WorkerPolicy(
                batch=BatchPolicy(max_records=10, max_bytes=2**20, max_wait_s=0.01),
                buffer_bytes=self.buffer_bytes,
                shutdown_s=self.shutdown_s,
                until_caught_up=self.until_caught_up,
                max_records=self.max_records,
            ),
        )
        self.stop = threading.Event()
        self.summary: Summary | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.summary = self.worker.run(self.stop)
        except BaseException as error:
            self.error = error

    def start(self) -> None:
        """Run the worker in the background."""
        self._thread.start()

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
        found: dict[str, dict[int, str]] = {}
        for rows in self.milvus.stored(COLLECTION).values():
            for row in rows.values():
                chunks = found.setdefault(row["doc_id"], {})
                assert row["chunk"] not in chunks, f"{row['doc_id']} stands twice"
                chunks[row["chunk"]] = row["text"]
        return {doc_id: [chunks[index] for index in sorted(chunks)] for doc_id, chunks in found.items()}

    def outcome(self, name: str) -> float:
        """`ingest_records_total` with this outcome."""
        return self.metrics.registry.get_sample_value("ingest_records_total", {"outcome": name}) or 0.0


@contextmanager
def running(rig: Rig) -> Iterator[Rig]:
    """Run the worker for the length of the block, then stop it; an error of the worker fails the test."""
    rig.start()
    yield rig
    rig.stop.set()
    rig.ended()


def document(doc_id: str, text: str = "some words", **more: object) -> bytes:
    """A record's value."""
    return json.dumps({"id": doc_id, "text": text, "event_time": NOON, **more}).encode()


def soon(probe: Callable[[], object]) -> None:
    """Wait until something holds."""
    eventually(lambda: bool(probe()), within=10)
