"""Several workers' flushers over one Milvus, on a clock of the test, interleaved call by call."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np

from pipeline.errors import OutcomeUnknown, Unavailable
from pipeline.records import Finished, KafkaPartition, Position, Reached, Receipt, WrittenPositions
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.marks import Marks
from pipeline.store.collection.schema import documents_spec, ledger_spec, marks_spec
from pipeline.store.flushing.flusher import Flusher
from pipeline.store.flushing.policy import FlushPolicy
from pipeline.store.flushing.shared_marker import FlushMarker
from pipeline.store.milvus.api import MilvusApi
from pipeline.telemetry import FlushRole
from tests.support.fakes.milvus import FakeMilvus

INTERVAL_S = 10.0
COLLECTIONS = ("docs", "docs__ledger", "docs__marks")
Rows = list[dict[str, Any]]


class Cluster:
    """A Milvus, a clock, and what was flushed when; time is counted in events as well as in seconds."""

    def __init__(self) -> None:
        self.milvus = FakeMilvus()
        index = IndexSettings("FLAT")
        self.milvus.create_collection(documents_spec("docs", dimension=2, index=index, stamp={}, bm25=False))
        self.milvus.create_collection(ledger_spec("docs"))
        self.milvus.create_collection(marks_spec("docs"))
        self.now = 1000.0
        self.events = 0
        self.finished: dict[str, list[int]] = defaultdict(list)
        """Collection -> at which events flushes of it began that have finished."""
        self.late: list[Callable[[], None]] = []
        """Writes whose sender has given up, and that still arrive."""
        self.crashes = 0
        self._past: list[Rows] = [[]]

    def event(self) -> int:
        self.events += 1
        return self.events

    def marks(self) -> Rows:
        return list(self.milvus.stored("docs__marks")["_default"].values())

    def remember(self) -> None:
        """This is a state that the server may go back to."""
        self._past.append(self.marks())

    def lose(self, writes: int) -> None:
        """Power fails: the marks are as they were `writes` changes ago, and every call under way fails."""
        self.crashes += 1
        self.late.clear()
        del self._past[max(1, len(self._past) - writes) :]
        self.milvus.drop_collection("docs__marks")
        self.milvus.create_collection(marks_spec("docs"))
        if rows := self._past[-1]:
            self.milvus.upsert("docs__marks", None, rows)


class Connection:
    """One worker's connection: every call waits for its turn, and fails when `trouble` says so."""

    def __init__(self, cluster: Cluster, turn: Callable[[], None]) -> None:
        self._cluster = cluster
        self._turn = turn
        self.server = cluster.milvus.server
        self.trouble = ""
        """How the next call fails: refused, "late" (and arrives later), or "lost answer"."""
        self.refuses: set[str] = set()
        """Operations of which every call fails."""
        self.flushes = 0
        self.queries = 0

    def flush(self, collection: str) -> None:
        self.flushes += 1
        began = self._cluster.event()
        self._wait("flush")
        self._cluster.milvus.flush(collection)
        self._cluster.finished[collection].append(began)

    def instant(self) -> int | None:
        self._wait("instant")
        return self._cluster.milvus.instant()

    def query(self, *arguments: Any, **options: Any) -> Rows:
        self.queries += 1
        self._wait("query")
        return self._cluster.milvus.query(*arguments, **options)

    def upsert(self, *arguments: Any) -> None:
        self._write("upsert", lambda: self._cluster.milvus.upsert(*arguments))

    def delete(self, *arguments: Any) -> None:
        self._write("delete", lambda: self._cluster.milvus.delete(*arguments))

    def _write(self, operation: str, write: Callable[[], None]) -> None:
        def change() -> None:
            write()
            self._cluster.remember()

        trouble = self._wait(operation, late=change)
        change()
        if trouble:
            raise OutcomeUnknown(trouble)

    def _wait(self, operation: str, late: Callable[[], None] | None = None) -> str:
        """Returns "lost answer" where the call is to have its effect and fail nevertheless."""
        crashes = self._cluster.crashes
        self._turn()
        if self._cluster.crashes > crashes:
            raise Unavailable("the server was restarted")
        if operation in self.refuses:
            raise Unavailable("refused")
        trouble, self.trouble = self.trouble, ""
        if trouble == "late" and late is not None:
            self._cluster.late.append(late)
        if trouble and (trouble != "lost answer" or late is None):
            raise Unavailable(trouble)
        return trouble


def marks_row(offset: int) -> dict[str, Any]:
    """A position of the only Kafka partition."""
    row = {"kind": "position", "name": "t/0", "writer": "w", "count": offset, "payload": "{}", "written_ms": 0}
    return {"id": f"{offset:040x}", **row, "vector": np.ones(2, dtype=np.float32)}


class Worker:
    """A flusher whose steps are taken apart at every call to Milvus."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        leads: bool = False,
        durability: Literal["flush", "ack"] = "flush",
        positions: bool = False,
    ) -> None:
        self._cluster = cluster
        self.api: Any = Connection(cluster, self._pause)
        self.leads = leads
        self.acked: dict[int, int] = {}
        """Receipt -> the event at which it was acknowledged."""
        self.durable: set[int] = set()
        self.assignment = 1
        self.rounds: list[tuple[FlushRole, bool]] = []
        self.positions: list[int] = []
        """The positions that are durable, in order."""
        self.written: dict[int, int] = {}
        """Position -> the event at which it was acknowledged."""
        self._acknowledged: deque[tuple[Receipt, int]] = deque()
        self._reached: dict[KafkaPartition, Reached] = {}
        api = cast(MilvusApi, self.api)
        self.flusher = Flusher(
            api,
            COLLECTIONS,
            FlushPolicy(durability, interval_s=INTERVAL_S),
            self._settle if durability == "flush" else self._settle_at_ack,
            lambda: cluster.now,
            marker=FlushMarker(Marks(api, "docs", lambda: cluster.now), lambda: cluster.now),
            leads=lambda: self.leads,
            on_flush=lambda role, ok: self.rounds.append((role, ok)),
            positions=self if positions else None,
            on_acked=(lambda receipt, rows: self._acknowledged.append((receipt, rows))) if positions else None,
        )
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._busy = False
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ack(self) -> int:
        number = len(self.acked)
        self.acked[number] = self._cluster.event()
        self.flusher.acked(Receipt([Position("t", 0, number)]), 1)
        self.hand_over()
        return number

    def hand_over(self) -> None:
        """What the thread that reads Kafka does: receipts go to the flush with the position that they reach."""
        receipts = [receipt for receipt, _ in self._acknowledged]
        self._acknowledged.clear()
        self._reached = {("t", 0): Reached(len(self.acked), self.assignment)}
        self.flusher.acknowledged(receipts, len(receipts), self._reached)

    def write(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Have Milvus remember a position; as `PositionStore`."""
        self.api.upsert("docs__marks", None, [marks_row(offset) for offset in offsets.values()])
        self.written[offsets["t", 0]] = self._cluster.event()

    def lose_connection(self) -> None:
        """What was not durable is read again from the last durable position, in a new assignment."""
        self.flusher.drop()
        self.assignment += 1
        kept = self.positions[-1] if self.positions else 0
        self.acked = {number: event for number, event in self.acked.items() if number < kept}
        self.durable &= set(self.acked)
        self.written.clear()

    def go(self) -> bool:
        """Go on to the next call to Milvus; False if there is nothing to do."""
        due = self.flusher.due_at()
        if not self._busy and (due is None or due > self._cluster.now):
            return False
        self._busy = True
        self._go.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error
        return True

    def finish(self) -> None:
        """Do all there is to do at this time."""
        while self.go():
            pass

    def end(self) -> None:
        self._ended = True
        while self._thread.is_alive():
            self._go.release()
            self._thread.join(0.001)

    def _settle(self, receipts: Sequence[Finished]) -> None:
        for receipt in receipts:
            if isinstance(receipt, WrittenPositions):
                self._settle_position(receipt.positions["t", 0])
                continue
            assert isinstance(receipt, Receipt)
            number = receipt.positions[0].offset
            assert number not in self.durable, "reported twice"
            for collection in COLLECTIONS:
                began = max(self._cluster.finished[collection], default=0)
                assert began > self.acked[number], f"acknowledged at {self.acked[number]}, {collection} flushed {began}"
            self.durable.add(number)

    def _settle_position(self, reached: Reached) -> None:
        if reached.assignment != self.assignment:
            return
        for collection in COLLECTIONS:
            began = max(self._cluster.finished[collection], default=0)
            assert began > self.written[reached.offset], f"{reached} is called durable before its flush"
        assert set(range(reached.offset)) <= self.acked.keys()
        self.positions.append(reached.offset)

    def _settle_at_ack(self, receipts: Sequence[Finished]) -> None:
        (receipt,) = receipts
        if isinstance(receipt, WrittenPositions):
            return
        assert receipt.positions[0].offset == len(self.acked) - 1, "not the one acknowledged now"
        self.durable.add(len(self.acked) - 1)

    def _pause(self) -> None:
        self._paused.release()
        self._go.acquire()
        if self._ended:
            raise SystemExit

    def _run(self) -> None:
        try:
            self._go.acquire()
            while not self._ended:
                self.flusher.step()
                self._busy = False
                self._pause()
        except BaseException as error:
            self._error = error
            self._paused.release()


@contextmanager
def group(
    *leads: bool, durability: Literal["flush", "ack"] = "flush", positions: bool = False
) -> Iterator[tuple[Cluster, list[Worker]]]:
    """So many workers over one Milvus, those that lead marked."""
    cluster = Cluster()
    workers = [Worker(cluster, leads=each, durability=durability, positions=positions) for each in leads]
    try:
        yield cluster, workers
    finally:
        for worker in workers:
            worker.end()
