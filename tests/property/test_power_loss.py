"""A redo after Milvus has lost any part of what it had acknowledged and not flushed: at its end the rows are exact.

Each row, of documents and of the ledger, is what it was after one of its writes since the last flush. Documents and
ledger have no common moment, so the ledger may know more than there is, or less.
"""

import random
from collections.abc import Sequence
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import fold
from pipeline.records import Delete, Put
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.opening import open_collection, open_ledger
from pipeline.store.partition_names import Partitioning
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.ledger.ledger_rows import row_entry
from pipeline.store.writing.protocol.decisions import Earlier
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from pipeline.store.writing.upsert_writer import UpsertWriter
from tests.support.documents import DIMENSION, delete, embed_all, put
from tests.support.examples import examples
from tests.support.fakes.faulty_milvus import Crash
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.power_loss import PowerLoss
from tests.support.rigs.writer import newest, rows_of

NAME = "docs"
POLICY = WritePolicy(max_rows=3, max_bytes=2000)  # a document of more than three rows is cut
Content: TypeAlias = tuple[str, int, str] | None
"""Text, day and metadata; None: a delete."""
CONTENTS: tuple[Content, ...] = (
    None,
    ("a", 0, "x"),
    ("b c d", 0, "x"),
    ("b c d", 0, "y"),
    ("a", 1, "x"),
    ("e f", 2, "x"),
)


class Run:
    """One log, one Milvus, and workers that follow one another; `committed` is never above what is durable."""

    def __init__(self, log: Sequence[Put | Delete], seed: int) -> None:
        self.log = log
        self.random = random.Random(seed)
        self.milvus = FakeMilvus(seed=seed)
        open_collection(self.milvus, NAME, {"name": "m"}, DIMENSION, IndexSettings("FLAT", "COSINE", {}), create=True)
        open_ledger(self.milvus, NAME)
        self.power = PowerLoss(self.milvus)
        self.committed = 0

    def writer(self) -> UpsertWriter:
        partitions = MilvusPartitions(self.milvus, NAME)
        return UpsertWriter(
            self.milvus,
            NAME,
            partitions,
            Partitioning("day"),
            POLICY,
            fingerprint="m",
            ledger=Ledger(self.milvus, NAME, POLICY),
            durable=lambda position: position.offset < self.committed,
        )

    def work(self, *, until: int, flush_every: int, calls: int | None = None) -> None:
        """A new worker writes from the committed offset; it may die after a number of writes of its own."""
        writer = self.writer()
        self._die_after(calls)
        try:
            at = self.committed
            batches = 0
            while at < until:
                batch = self.log[at : min(until, at + self.random.randint(1, 4))]
                self._write(writer, batch)
                at += len(batch)
                batches += 1
                if batches % flush_every == 0:
                    self.power.flushed()
                    self.committed = at
        except Crash:
            pass
        self.milvus.hook = None

    def _write(self, writer: UpsertWriter, batch: Sequence[Put | Delete]) -> None:
        folded = fold(batch)
        away = [operation for operation in batch if operation.position in set(folded.resolved)]
        earlier = [Earlier(each, len(each.document.text.split()) if isinstance(each, Put) else 0) for each in away]
        plan = writer.plan(folded.operations, earlier)
        writer.apply(plan, embed_all(plan.to_embed))

    def _die_after(self, calls: int | None) -> None:
        left = calls

        def count(operation: str, collection: str, when: str) -> None:
            nonlocal left
            if left is not None and when == "after" and operation in ("upsert", "delete"):
                left -= 1
                if left < 0:
                    raise Crash

        self.milvus.hook = count

    def check(self) -> None:
        expected = newest(self.log)
        stored: dict[str, dict[str, tuple[str, int, str, str]]] = {}
        for partition, rows in self.milvus.stored(NAME).items():
            for identifier, row in rows.items():
                found = partition, row["chunk"], row["text"], row["tag"]
                stored.setdefault(row["doc_id"], {})[identifier] = found
        assert {key: stored.get(key, {}) for key in stored.keys() | expected.keys()} == {
            key: rows_of(operation) for key, operation in expected.items()
        }
        entries = [row_entry(row) for row in self.milvus.stored(f"{NAME}__ledger")["_default"].values()]
        assert {entry.doc_id: (entry.pending, entry.position) for entry in entries} == {
            key: (False, operation.position) for key, operation in expected.items()
        }


def log_of(steps: Sequence[tuple[str, Content, int]], *, versioned: bool) -> list[Put | Delete]:
    made: list[Put | Delete] = []
    for offset, (key, content, number) in enumerate(steps):
        version = number if versioned else None
        if content is None:
            made.append(delete(key, offset, version=version))
        else:
            text, day, tag = content
            made.append(put(key, text, offset, day=day, version=version, metadata={"tag": tag}))
    return made


@examples(20)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["k1", "k2"]), st.sampled_from(CONTENTS), st.integers(0, 3)), min_size=1, max_size=14
    ),
    losses=st.lists(st.tuples(st.integers(0, 14), st.integers(1, 4), st.none() | st.integers(0, 20)), max_size=3),
    versioned=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_redo_restores_what_was_lost_and_removes_what_came_back(
    steps: list[tuple[str, Content, int]], losses: list[tuple[int, int, int | None]], versioned: bool, seed: int
) -> None:
    run = Run(log_of(steps, versioned=versioned), seed)
    for until, flush_every, calls in losses:
        run.work(until=min(until, len(steps)), flush_every=flush_every, calls=calls)
        run.power.strike(lambda _, states: run.random.randrange(states))
    run.work(until=len(steps), flush_every=1)
    run.check()
