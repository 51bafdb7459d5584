"""The repair of documents beside workers that start at any of its steps, on a Milvus in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.audit.reading import ReplayedDecision, StoredReader, document_digest
from consumers.audit.repair import Repairer
from consumers.audit.workspace import StoredDocument
from consumers.kafka import LeaseClock, LiveGroup
from pipeline.audit import AuditScope, ExpectedState, ExpectedWrite, Finding, compare_document, text_digest
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import HashEmbedder
from pipeline.errors import MembershipLost, UsageError
from pipeline.intake import Decoder, IntakeLimits, RecordMapping
from pipeline.records import Chunk, Delete, Position, Put, SourceRecord
from pipeline.store import Ledger, Partitioning, UpsertWriter
from tests.support.documents import DIMENSION, NOON_MS, source_record
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.worker import Connection
from tests.support.stores import Store, make_store, write

DAY = "d20261122"


def record(offset: int, text: str) -> SourceRecord:
    value = f'{{"id": "d", "text": "{text}", "event_time": {NOON_MS}}}'
    return source_record(value.encode(), b"d", at=("documents", 0, offset), timestamp_ms=NOON_MS + offset)


RECORDS = {Position("documents", 0, offset): record(offset, text) for offset, text in enumerate(["one", "two"])}


class Model(HashEmbedder):
    """Calls the test while it embeds."""

    def __init__(self) -> None:
        super().__init__(f"hash:{DIMENSION}")
        self.meanwhile: Callable[[], object] = lambda: None

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        self.meanwhile()
        return super().embed(chunks)


class Case:
    """A document whose row is gone, and its repair from record 0; a worker stores record 1 when the test says so."""

    def __init__(self) -> None:
        self.milvus = FakeMilvus()
        self.store = make_store(self.milvus, "docs")
        self.model = Model()
        self.active, self.seconds, self.questions = False, 1000.0, 0
        self.started_at = 1000
        """The question at which workers are there."""
        decoder = Decoder(RecordMapping(), IntakeLimits(2**20, 600_000, None), append=False)
        self.decision = ReplayedDecision(decoder, Partitioning("day"), 600_000, NOON_MS + 60_000)
        self.chunker = Chunker(self.model.tokenizer, ChunkingPolicy(48, 8))
        self._work(0)
        self.milvus.delete("docs", DAY, list(self.milvus.stored("docs")[DAY]))
        connection: Any = Connection(self.milvus)
        self.live = LiveGroup(self._ask, LeaseClock(lambda: self.seconds, lambda: self.seconds))
        self.repairer = Repairer(
            "group",
            connection,
            "docs",
            records_at=self._records_at,
            decision=self.decision,
            chunker=self.chunker,
            model=self.model,
            writer=lambda ledger: self._writer(connection, ledger),
            live=self.live,
            check_member=self._check_member,
            append=False,
            flush=False,
        )
        connection.fence(self.repairer.left_s)
        self.lost = False

    def start_workers(self) -> None:
        self.active = True
        self._work(1)

    def repair(self) -> list[str]:
        """Repair the document; or why it was not."""
        reader = StoredReader(self.milvus, "docs")
        operation = self._operation(RECORDS[Position("documents", 0, 0)])
        expected = ExpectedWrite.of(operation, certain=True, chunks=(text_digest("one"),))
        (document,) = reader.again([StoredDocument(document_digest(operation, None), [expected])])
        scope = AuditScope(
            partitioning=Partitioning("day"),
            fingerprint="model",
            milvus_partitions=reader.partitions,
            unloaded=reader.unloaded,
            offsets={("documents", 0): (0, 1)},
        )
        finding = self._finding(document, scope)
        assert [problem.kind for problem in finding.problems] == ["missing"]
        refused = self.repairer.repair([(document, finding)], scope)
        return list(refused.values())

    def texts(self) -> list[str]:
        return [text for rows in self.store.rows().values() for text in rows.values()]

    def _finding(self, document: StoredDocument, scope: AuditScope) -> Finding:
        return compare_document(ExpectedState.of(document.operations), document.entry, document.rows, scope)

    def _ask(self) -> bool:
        self.questions += 1
        return self.active or self.questions > self.started_at

    def _check_member(self) -> None:
        if self.lost:
            raise MembershipLost("another job may write")

    def _records_at(self, positions: Iterable[Position]) -> Iterator[SourceRecord]:
        return (RECORDS[position] for position in positions)

    def _operation(self, source: SourceRecord) -> Put | Delete:
        operation, certain = self.decision.operation(source)
        assert certain
        assert isinstance(operation, Put)
        return operation

    def _work(self, offset: int) -> None:
        """What a worker does with the record at this offset."""
        write(self._writer(self.milvus, None), [self._operation(RECORDS[Position("documents", 0, offset)])])

    def _writer(self, api: Any, ledger: Ledger | None) -> UpsertWriter:
        store = Store(api, "docs")
        return UpsertWriter(api, "docs", store.partitions(), Partitioning("day"), fingerprint="model", ledger=ledger)


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_document_without_its_row_is_repaired(case: Case) -> None:
    assert case.repair() == []
    assert case.texts() == ["one"]
    assert not case.store.ledger()["d"].pending


def test_workers_started_while_it_embeds_keep_what_they_wrote(case: Case) -> None:
    case.model.meanwhile = case.start_workers
    with pytest.raises(UsageError, match="Stop the workers, repair, start them again"):
        case.repair()
    assert case.texts() == ["two"]
    assert case.store.ledger()["d"].position.offset == 1


def test_workers_that_started_and_ended_while_it_embedded_keep_what_they_wrote(case: Case) -> None:
    def come_and_go() -> None:
        case.start_workers()
        case.active = False

    case.model.meanwhile = come_and_go
    assert case.repair() == ["changed"]
    assert case.texts() == ["two"]
    assert not case.store.ledger()["d"].pending


@pytest.mark.parametrize(("questions", "texts"), [(1, []), (2, []), (3, ["one"])])
def test_every_request_looks_for_workers(case: Case, questions: int, texts: list[str]) -> None:
    case.started_at = questions
    with pytest.raises(UsageError, match="Stop the workers"):
        case.repair()
    assert case.texts() == texts
    assert case.store.ledger()["d"].pending == (questions > 1), (
        "a repair that was cut off leaves what the next one needs"
    )


def test_a_repair_whose_membership_is_lost_while_it_embeds_writes_nothing(case: Case) -> None:
    def lose() -> None:
        case.lost = True

    case.model.meanwhile = lose
    with pytest.raises(MembershipLost):
        case.repair()
    assert case.texts() == []
