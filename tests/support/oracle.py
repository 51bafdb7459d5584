"""What must be stored, recomputed from the raw topic, and everything in which what is stored differs from it.

Shares no code with the product: it knows the public contract (docs/architecture.md) and nothing else. Good and bad
records are told apart by the header that the load gives them, not by decoding them.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
from confluent_kafka import Message
from numpy.typing import ArrayLike
from pymilvus import MilvusClient

from tests.support.load import POISON_HEADER
from tests.support.observed import (
    CONNECT,
    OffsetWatch,
    Row,
    Stored,
    committed_and_end,
    dead_letter_origins,
    headers_of,
    read_all,
    stored_documents,
    stored_ledger,
)

__all__ = [
    "Expected",
    "OffsetWatch",
    "Verdict",
    "committed_and_end",
    "expected",
    "judge",
    "judge_documents",
    "judge_prefix",
    "mismatch",
    "read_all",
    "stored_documents",
    "stored_ledger",
]

VectorOf = Callable[[str], ArrayLike]

_OWN = {"id", "doc_id", "chunk", "text", "vector", "sparse", "event_time"}
_OWN |= {"kafka_topic", "kafka_partition", "kafka_offset"}
_RESERVED = _OWN | {"tenant", "$meta"}
_PARTITION_NAMES = {"h": "h%Y%m%d%H", "d": "d%Y%m%d", "w": "w%GW%V", "m": "m%Y%m"}


# --- what must be there ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """One document as a record describes it, with what its rows must say."""

    doc_id: str
    text: str
    event_time: int
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """What one accepted record made of its document; None: deleted."""

    partition: int
    offset: int
    document: Wanted | None


@dataclass
class Expected:
    """What must be there once everything has been processed."""

    documents: dict[str, Wanted] = field(default_factory=dict)
    versions: dict[str, list[Version]] = field(default_factory=lambda: defaultdict(list))
    """Every accepted record by doc_id, oldest first."""
    poison: dict[tuple[int, int], Message] = field(default_factory=dict)
    """By Kafka partition and offset."""


def expected(records: Sequence[Message]) -> Expected:
    """Recompute from the raw topic: the last write of a document wins. All records of one must be in one Kafka
    partition."""
    result = Expected()
    for message in records:
        position = (message.partition() or 0, message.offset() or 0)
        if POISON_HEADER in headers_of(message):
            result.poison[position] = message
            continue
        doc_id, document = _read(message)
        versions = result.versions[doc_id]
        assert all(each.partition == position[0] for each in versions[-1:]), f"{doc_id} is in two Kafka partitions"
        versions.append(Version(*position, document))
        if document is None:
            result.documents.pop(doc_id, None)
        else:
            result.documents[doc_id] = document
    return result


def _read(message: Message) -> tuple[str, Wanted | None]:
    key, value = message.key() or b"", message.value()
    if value is None:
        return key.decode(), None
    body = json.loads(value)
    doc_id = str(body.pop("id"))
    text, time = body.pop("text"), body.pop("event_time", None)
    event_time = message.timestamp()[1] if time is None else int(datetime.fromisoformat(time).timestamp() * 1000)
    metadata = {f"meta_{name}" if name in _RESERVED else name: value for name, value in body.items()}
    return doc_id, Wanted(doc_id, text, event_time, metadata)


# --- the verdict -----------------------------------------------------------------------------------------------------


@dataclass(repr=False)
class Verdict:
    """Everything that is wrong, by kind."""

    expected_documents: int = 0
    stored_rows: int = 0
    expected_dead_letters: int = 0
    lost: list[str] = field(default_factory=list)
    """Wanted and not there."""
    stale: list[str] = field(default_factory=list)
    """Not the newest version, or not all of it: text, metadata, chunks, vectors."""
    duplicates: list[str] = field(default_factory=list)
    """A chunk that stands twice, or an id that does."""
    misplaced: list[str] = field(default_factory=list)
    """Not in the Milvus partition of its event time."""
    resurrected: list[str] = field(default_factory=list)
    """There, and deleted or never produced."""
    dead_letters_missing: list[str] = field(default_factory=list)
    dead_letters_wrong: list[str] = field(default_factory=list)
    """Of a good record, or not what the record was."""
    offsets_behind: list[str] = field(default_factory=list)
    """The group is not at the end."""
    ledger_wrong: list[str] = field(default_factory=list)
    ahead: list[str] = field(default_factory=list)
    """Below the committed offset, and neither stored nor dead-lettered."""

    @property
    def found(self) -> dict[str, list[str]]:
        """What is wrong, by kind; nothing for kinds of which there is none."""
        kinds = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in kinds.items() if isinstance(value, list) and value}

    @property
    def harms(self) -> int:
        """How many there are."""
        return sum(len(some) for some in self.found.values())

    def __repr__(self) -> str:
        lines = [
            f"{self.harms} harms; {self.expected_documents} documents and {self.expected_dead_letters} dead letters "
            f"wanted, {self.stored_rows} rows stored"
        ]
        for name, some in self.found.items():
            lines += [f"  {name}: {len(some)}", *(f"    {each}" for each in some[:5])]
        return "\n".join(lines)


def judge(  # noqa: PLR0917
    bootstrap: str,
    topic: str,
    group: str,
    dead_letter_topic: str,
    client: MilvusClient,
    collection: str,
    *,
    vector_of: VectorOf | None = None,
) -> Verdict:
    """Compare everything, at rest: the group has read the topic to its end and nobody writes.

    `vector_of`: the vector that a chunk's text must have, where it can be known.
    """
    wanted = expected(read_all(bootstrap, topic))
    stored = stored_documents(client, collection)
    verdict = Verdict(len(wanted.documents), stored.rows, len(wanted.poison))
    judge_documents(wanted, stored, verdict, vector_of=vector_of)
    _judge_ledger(wanted, stored, stored_ledger(client, collection), topic, verdict)
    _judge_dead_letters(topic, wanted, read_all(bootstrap, dead_letter_topic), verdict)
    for number, (committed, end) in committed_and_end(bootstrap, group, topic).items():
        if max(committed, 0) != end:
            verdict.offsets_behind.append(f"{topic}/{number}: committed {committed}, end {end}")
    return verdict


def judge_documents(
    wanted: Expected, stored: Stored, verdict: Verdict, *, vector_of: VectorOf | None = None
) -> Verdict:
    """Compare the rows with what they must be; into `verdict`."""
    verdict.lost += sorted(wanted.documents.keys() - stored.documents.keys())
    verdict.resurrected += sorted(stored.documents.keys() - wanted.documents.keys())
    ids: Counter[str] = Counter()
    for doc_id, placed in stored.documents.items():
        rows = [row for _, row in placed]
        ids.update(row["id"] for row in rows)
        chunks = Counter(row["chunk"] for row in rows)
        verdict.duplicates += [f"{doc_id}: chunk {number} {n} times" for number, n in chunks.items() if n > 1]
        verdict.misplaced += [
            f"{doc_id}: in {partition}, event time {row['event_time']}"
            for partition, row in placed
            if not _belongs(partition, row["event_time"])
        ]
        document = wanted.documents.get(doc_id)
        if document is not None and (problem := mismatch(document, rows, vector_of)):
            newest = wanted.versions[doc_id][-1]
            verdict.stale.append(f"{doc_id} (newest at {newest.partition}/{newest.offset}): {problem}")
    verdict.duplicates += [f"id {each} {n} times" for each, n in ids.items() if n > 1]
    if stored.counted != len(ids):
        verdict.duplicates.append(f"the server counts {stored.counted} rows, {len(ids)} ids can be read")
    return verdict


def mismatch(document: Wanted, rows: Sequence[Row], vector_of: VectorOf | None = None) -> str:
    """In what the rows are not exactly this version of the document; empty if in nothing."""
    rows = sorted(rows, key=lambda row: row["chunk"])
    if [row["chunk"] for row in rows] != list(range(len(rows))) or not rows:
        return f"chunks {[row['chunk'] for row in rows]}"
    for row in rows:
        metadata = {name: value for name, value in row.items() if name not in _OWN}
        if metadata != document.metadata:
            names = sorted(metadata.keys() | document.metadata.keys())
            there = {name: metadata.get(name) for name in names if metadata.get(name) != document.metadata.get(name)}
            return f"chunk {row['chunk']} (of {row['kafka_offset']}) has {there}"
        if row["event_time"] != document.event_time:
            return f"event time of chunk {row['chunk']}: {row['event_time']}, not {document.event_time}"
    if left := uncovered(document.text, [row["text"] for row in rows]):
        return f"the chunks do not cover {left!r}"
    for row in rows:
        if vector_of is not None and not np.allclose(row["vector"], vector_of(row["text"]), atol=1e-3):
            return f"the vector of chunk {row['chunk']} is not that of its text"
    return ""


def uncovered(text: str, chunks: Sequence[str]) -> str:
    """The beginning of what no chunk holds, empty if all is held; chunks may overlap and touch."""
    at = 0
    for chunk in chunks:
        start = text.rfind(chunk, 0, at + len(chunk))
        if start < 0:
            return text[at : at + 40] or f"and hold {chunk[:40]!r} too"
        at = max(at, start + len(chunk))
    return text[at : at + 40]


def _belongs(partition: str, event_time: int) -> bool:
    if partition == "_default":
        return True  # partitioning.by: none; otherwise nothing is ever stored there
    name = _PARTITION_NAMES[partition[0]]
    return datetime.fromtimestamp(event_time / 1000, UTC).strftime(name) == partition


def _judge_ledger(wanted: Expected, stored: Stored, ledger: Mapping[str, Row], topic: str, verdict: Verdict) -> None:
    for doc_id, versions in wanted.versions.items():
        row, newest = ledger.get(doc_id), versions[-1]
        if newest.document is None:
            if row is not None and (row["state"] != "deleted" or row["pending"] or row["footprint"]):
                verdict.ledger_wrong.append(f"{doc_id}, deleted at {newest.partition}/{newest.offset}: {row}")
            continue
        footprint = dict(Counter(partition for partition, _ in stored.documents.get(doc_id, ())))
        should = {
            "topic": topic,
            "kafka_partition": newest.partition,
            "kafka_offset": newest.offset,
            "state": "live",
            "footprint": footprint,
            "pending": False,
        }
        if row is None or {name: row[name] for name in should} != should:
            verdict.ledger_wrong.append(f"{doc_id}: {row}, not {should}")
    verdict.ledger_wrong += [f"never produced: {ledger[doc_id]}" for doc_id in ledger.keys() - wanted.versions.keys()]


def _judge_dead_letters(topic: str, wanted: Expected, letters: Sequence[Message], verdict: Verdict) -> None:
    found = dead_letter_origins(topic, letters)
    for position, letter in found.items():
        name = f"{topic}/{position[0]}/{position[1]}"
        headers, poison = headers_of(letter), wanted.poison.get(position)
        if poison is None:
            why = headers.get(f"{CONNECT}exception.message")
            verdict.dead_letters_wrong.append(f"{name} is good: {why!r}")
        elif (letter.key(), letter.value()) != (poison.key(), poison.value()):
            verdict.dead_letters_wrong.append(f"{name}: other bytes")
        elif not headers_of(poison).items() <= headers.items():
            verdict.dead_letters_wrong.append(f"{name}: without the record's headers")
        elif not headers.get(f"{CONNECT}exception.message"):
            verdict.dead_letters_wrong.append(f"{name}: without a reason")
    verdict.dead_letters_missing += [f"{topic}/{p}/{o}" for p, o in sorted(wanted.poison.keys() - found.keys())]


# --- the verdict at any moment ------------------------------------------------------------------------------------


def judge_prefix(  # noqa: PLR0917
    bootstrap: str,
    topic: str,
    group: str,
    dead_letter_topic: str,
    client: MilvusClient,
    collection: str,
    *,
    vector_of: VectorOf | None = None,
) -> Verdict:
    """With no worker running: every record below the committed offset is stored, or superseded, or dead-lettered.

    And the ledger tells the truth: rows are only where it says (L1), a document that is not pending is exactly the
    version it says (L2).
    """
    wanted = expected(read_all(bootstrap, topic))
    committed = {p: max(0, at) for p, (at, _) in committed_and_end(bootstrap, group, topic).items()}
    stored, ledger = stored_documents(client, collection), stored_ledger(client, collection)
    verdict = Verdict(len(wanted.documents), stored.rows, len(wanted.poison))
    for doc_id in stored.documents.keys() | ledger.keys() | wanted.versions.keys():
        versions = wanted.versions.get(doc_id, [])
        below = [each for each in versions if each.offset < committed[each.partition]]
        document = _Document(doc_id, stored.documents.get(doc_id, []), ledger.get(doc_id), versions, vector_of)
        if problem := document.ledger_lies():
            verdict.ledger_wrong.append(f"{doc_id}: {problem}")
        elif below and (problem := document.behind(below[-1])):
            verdict.ahead.append(f"{doc_id}: {problem}")
    letters = dead_letter_origins(topic, read_all(bootstrap, dead_letter_topic))
    for partition, offset in wanted.poison.keys() - letters.keys():
        if offset < committed[partition]:
            verdict.ahead.append(f"dead letter of {topic}/{partition}/{offset} (committed {committed[partition]})")
    return verdict


@dataclass(frozen=True, slots=True)
class _Document:
    doc_id: str
    placed: Sequence[tuple[str, Row]]
    entry: Row | None
    versions: Sequence[Version]
    vector_of: VectorOf | None

    @property
    def rows(self) -> list[Row]:
        return [row for _, row in self.placed]

    def ledger_lies(self) -> str:
        """How L1 or L2 is broken."""
        if self.entry is None:
            return f"{len(self.placed)} rows and no ledger row" if self.placed else ""
        footprint, rows = self.entry["footprint"], Counter(partition for partition, _ in self.placed)
        outside = [(p, row["chunk"]) for p, row in self.placed if row["chunk"] >= footprint.get(p, 0)]
        if outside:
            return f"rows {outside} outside the footprint {footprint}"
        if self.entry["pending"]:
            return ""
        if dict(rows) != footprint:
            return f"not pending, rows {dict(rows)}, footprint {footprint}"
        told = [each for each in self.versions if each.offset == self.entry["kafka_offset"]]
        if not told:
            return f"of offset {self.entry['kafka_offset']}, where this document has no record"
        return self._differs(told[0])

    def behind(self, last: Version) -> str:
        """How what is stored is older than `last`, whose offset is below the committed one."""
        if self.entry is None:
            return f"{last.offset} is committed, and there is no ledger row"
        if self.entry["kafka_offset"] < last.offset:
            return f"{last.offset} is committed, the ledger has {self.entry['kafka_offset']}"
        candidates = [each for each in self.versions if each.offset >= last.offset]
        if any(not self._differs(each) for each in candidates):
            return ""
        if len(candidates) == 1:
            return f"{last.offset} is committed: {self._differs(last)}"
        if not self.entry["pending"]:
            return f"{last.offset} is committed, and no version since is there as a whole"
        strange = [row["chunk"] for row in self.rows if not any(_may_be_of(row, each) for each in candidates)]
        return f"{last.offset} is committed, chunks {strange} are older" if strange else ""

    def _differs(self, version: Version) -> str:
        if version.document is None:
            return f"{len(self.rows)} rows, deleted at {version.offset}" if self.rows else ""
        if not self.rows:
            return f"no rows, stored at {version.offset}"
        problem = mismatch(version.document, self.rows, self.vector_of)
        return f"not the version of {version.offset}: {problem}" if problem else ""


def _may_be_of(row: Row, version: Version) -> bool:
    document = version.document
    return document is not None and row["text"] in document.text and row["event_time"] == document.event_time
