"""An audit finds nothing after any ingest, something after any damage, and a repair ends where ingest would."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit import (
    STORED_FIELDS,
    AuditScope,
    ExpectedState,
    ExpectedWrite,
    Finding,
    StoredRow,
    compare_document,
    plan_repair,
    stored_row,
    supersedes,
    text_digest,
)
from pipeline.intake import fold
from pipeline.records import Delete, Put
from pipeline.store.partition_names import Partitioning
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.scan import RowScan, all_partitions
from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.ledger.ledger_rows import entry_row
from pipeline.store.writing.protocol.decisions import Entry
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from pipeline.store.writing.rows import row_id
from pipeline.store.writing.upsert_writer import UpsertWriter
from tests.support.documents import delete, put
from tests.support.examples import examples
from tests.support.fakes.milvus import FakeMilvus
from tests.support.stores import Store, make_store, write

Operation = Put | Delete
Key = tuple[str | None, str]
OTHER = "d20200101"
KAFKA_PARTITIONS = 2


def expected(operation: Operation) -> ExpectedWrite:
    words = operation.document.text.split() if isinstance(operation, Put) else []
    return ExpectedWrite.of(operation, certain=True, chunks=tuple(map(text_digest, words)))


def remaining(operations: Sequence[ExpectedWrite]) -> list[ExpectedWrite]:
    """What the audit's buffer leaves of the operations of one document."""
    by_partition: dict[int, list[ExpectedWrite]] = defaultdict(list)
    for operation in operations:
        some = by_partition[operation.position.partition]
        while some and supersedes(operation, some[-1]):
            some.pop()
        some.append(operation)
    return [each for some in by_partition.values() for each in some]


class Site:
    """A store that is ingested into, and what an audit sees of it."""

    def __init__(self) -> None:
        self.api = FakeMilvus()
        self.store: Store = make_store(self.api, "docs")
        self.api.create_partition("docs", OTHER)
        self.operations: list[Operation] = []

    def ingest(self, operations: Sequence[Operation], cuts: Sequence[int]) -> None:
        writer = self.store.upsert_writer()
        self.operations += operations
        start = 0
        for end in sorted({*cuts, len(operations)}):
            if operations[start:end]:
                write(writer, fold(operations[start:end]).operations)
            start = max(start, end)

    def rows(self) -> dict[Key, list[StoredRow]]:
        found: dict[Key, list[StoredRow]] = defaultdict(list)
        scan = RowScan(self.api, "docs", STORED_FIELDS)
        for name, raw in scan.read(scan.counts(all_partitions(self.api, "docs"))):
            for row in raw:
                stored = stored_row(row, name)
                found[stored.key].append(stored)
        return found

    def entries(self) -> dict[Key, Entry]:
        return {(entry.tenant, entry.doc_id): entry for entry in self.store.ledger_entries()}

    def described(self) -> dict[Key, Entry]:
        """The entries without what they keep of the way to their state."""
        return {key: entry._replace(former={}, written_at=None) for key, entry in self.entries().items()}

    def scope(self) -> AuditScope:
        ends: dict[int, int] = defaultdict(int)
        for operation in self.operations:
            ends[operation.position.partition] = operation.position.offset + 1
        offsets = {("documents", number): (0, end) for number, end in ends.items()}
        return AuditScope(Partitioning("day"), "model", all_partitions(self.api, "docs"), (), offsets)

    def expected(self) -> dict[Key, list[ExpectedWrite]]:
        by_key: dict[Key, list[ExpectedWrite]] = defaultdict(list)
        for operation in self.operations:
            by_key[operation.key].append(expected(operation))
        return by_key

    def findings(self) -> dict[Key, Finding]:
        rows, entries, scope, by_key = self.rows(), self.entries(), self.scope(), self.expected()
        return {
            key: compare_document(
                ExpectedState.of(remaining(by_key.get(key, []))), entries.get(key), rows.get(key, []), scope
            )
            for key in {*by_key, *rows, *entries}
        }

    def repair(self) -> None:
        rows, entries, scope = self.rows(), self.entries(), self.scope()
        ledger = Ledger(self.api, "docs", WritePolicy())
        writer = UpsertWriter(
            self.api,
            "docs",
            MilvusPartitions(self.api, "docs"),
            Partitioning("day"),
            fingerprint="model",
            ledger=ledger,
        )
        by_position = {operation.position: operation for operation in self.operations}
        for key, finding in self.findings().items():
            if finding.problems and finding.expected is not None:
                plan = plan_repair(finding.expected, entries.get(key), rows.get(key, []), scope)
                ledger.cache(ledger.read([key]))
                ledger.write([plan.intent])
                ledger.release([key])
                for partition, ids in plan.strays.items():
                    self.api.delete("docs", partition, ids)
                write(writer, [by_position[finding.expected.position]])


@st.composite
def histories(draw: st.DrawFn, *, nulls: bool = True) -> tuple[list[Operation], list[int]]:
    """Operations in the order they arrive, and where their batches end; null values have no version."""
    versioned = draw(st.booleans())
    offsets = [0] * KAFKA_PARTITIONS
    operations: list[Operation] = []
    for _ in range(draw(st.integers(1, 10))):
        key, partition = draw(st.sampled_from("ab")), draw(st.integers(0, KAFKA_PARTITIONS - 1))
        version = draw(st.integers(1, 4)) if versioned else None
        if draw(st.integers(0, 3)):
            text = " ".join(draw(st.lists(st.sampled_from("xyz"), min_size=1, max_size=4)))
            operations.append(
                put(key, text, offsets[partition], day=draw(st.integers(0, 2)), version=version, partition=partition)
            )
        else:
            null = nulls and draw(st.booleans())
            operations.append(delete(key, offsets[partition], version=None if null else version, partition=partition))
        offsets[partition] += 1
    return operations, draw(st.lists(st.integers(1, len(operations)), max_size=5))


@given(histories())
@examples(3)
def test_whatever_was_ingested_is_found_as_the_records_ask(history: tuple[list[Operation], list[int]]) -> None:
    site = Site()
    site.ingest(*history)
    expected_writes = site.expected()
    findings = site.findings()
    assert findings.keys() == expected_writes.keys()
    for key, finding in findings.items():
        assert finding.problems == ()
        assert finding.outcome == "sound" or (
            ExpectedState.of(expected_writes[key]).by_reading and finding.outcome == "unverifiable"
        )


def _damage(site: Site, row: dict[str, Any], place: str, entry: Entry, kind: str) -> None:
    api = site.api
    more = max(each.chunk for each in site.rows()[None, row["doc_id"]]) + 1
    changed: dict[str, dict[str, Any]] = {
        "text": {"text": "another text"},
        "metadata": {"colour": "red"},
        "event time": {"event_time": row["event_time"] + 1},
        "surplus": {"chunk": more, "id": row_id(None, row["doc_id"], more, place)},
        "gap": {"chunk": more + 1, "id": row_id(None, row["doc_id"], more + 1, place)},
    }
    elsewhere = {
        "copy": {},
        "copy of its own": {"id": row_id(None, row["doc_id"], row["chunk"], OTHER)},
    }
    entries: dict[str, dict[str, Any]] = {
        "pending": {"pending": True},
        "footprint": {"footprint": "{}"},
        "hash": {"content_hash": "0"},
        "state": {"state": "deleted" if entry.state == "live" else "live"},
    }
    if kind in changed:
        api.upsert("docs", place, [row | changed[kind]])
    elif kind in elsewhere:
        api.upsert("docs", OTHER, [row | elsewhere[kind]])
    elif kind in entries:
        api.upsert("docs__ledger", None, [dict(entry_row(entry)) | entries[kind]])
    elif kind == "row gone":
        api.delete("docs", place, [row["id"]])
    else:
        api.delete("docs__ledger", None, [entry_row(entry)["id"]])


KINDS = (
    *("text", "metadata", "event time", "surplus", "gap", "copy", "copy of its own", "row gone"),
    *("pending", "footprint", "hash", "state", "entry gone"),
)


@given(histories(nulls=False), st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 50)), min_size=1, max_size=3))
@examples(3)
def test_any_damage_is_found_and_repaired(
    history: tuple[list[Operation], list[int]], damages: list[tuple[str, int]]
) -> None:
    site = Site()
    site.ingest(*history)
    before = site.store.rows(), site.described()
    touched = set()
    for kind, number in damages:
        places = [(place, row) for place, rows in site.api.stored("docs").items() for row in rows.values()]
        places = [(place, dict(row)) for place, row in places if place != OTHER]
        entries = site.entries()
        if not places:
            break
        place, row = places[number % len(places)]
        if (None, row["doc_id"]) in entries:
            _damage(site, row, place, entries[None, row["doc_id"]], kind)
            touched.add((None, row["doc_id"]))
    found = {key for key, finding in site.findings().items() if finding.problems}
    assert found <= touched
    # Two damages of one document may cancel each other out: only one is certain to be seen.
    assert found == touched or len(damages) > 1
    site.repair()
    assert not any(finding.problems for finding in site.findings().values())
    if len(damages) == 1 and all(len(ExpectedState.of(some).candidates) == 1 for some in site.expected().values()):
        assert (site.store.rows(), site.described()) == before
