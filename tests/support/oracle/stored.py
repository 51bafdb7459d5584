"""Everything in which what is stored differs from what must be, recomputed from the raw topic.

Shares no code with the product: it knows the public contract (docs/architecture.md) and nothing else. Good and bad
records are told apart by the header that the load gives them, not by decoding them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from confluent_kafka import Message
from pymilvus import MilvusClient

from tests.support.oracle.expected import Expected, VectorOf, Version, Wanted, belongs, expected, mismatch
from tests.support.oracle.observed import (
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
    """Committed and neither stored nor dead-lettered; or gone before what replaces it was there."""

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
            if not belongs(partition, row["event_time"])
        ]
        document = wanted.documents.get(doc_id)
        if document is not None and (problem := mismatch(document, rows, vector_of)):
            newest = wanted.versions[doc_id][-1]
            verdict.stale.append(f"{doc_id} (newest at {newest.partition}/{newest.offset}): {problem}")
    verdict.duplicates += [f"id {each} {n} times" for each, n in ids.items() if n > 1]
    if stored.counted != len(ids):
        verdict.duplicates.append(f"the server counts {stored.counted} rows, {len(ids)} ids can be read")
    return verdict


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
        elif problem := document.behind(below[-1] if below else None):
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

    def behind(self, committed: Version | None) -> str:
        """How what is stored is older than `committed`, the newest version below the committed offset, or than what
        the ledger says was there when the change began that is pending."""
        at = -1 if self.entry is None else self.entry["kafka_offset"]
        if committed is not None and at < committed.offset:
            return f"{committed.offset} is committed, the ledger has {at if self.entry else 'no row'}"
        since = [each for each in self.versions if each.offset >= at]
        if not since or since[0].offset != at or any(not self._differs(each) for each in since):
            return ""
        if len(since) == 1 or self.entry is None or not self.entry["pending"]:
            return f"{at} was stored: {self._differs(since[0])}"
        if strange := [row["chunk"] for row in self.rows if not any(_may_be_of(row, each) for each in since)]:
            return f"{at} was stored, chunks {strange} are older"
        if all(each.document is not None and not self._holds(each.document) for each in since):
            return f"{at} was stored, now no version is there as a whole: deleted before the new one was written"
        return ""

    def _holds(self, document: Wanted) -> bool:
        """Whether all rows of this version are there, whatever else is."""
        there = [row for partition, row in self.placed if belongs(partition, document.event_time)]
        there.sort(key=lambda row: row["chunk"])
        return any(not mismatch(document, there[:count], self.vector_of) for count in range(1, len(there) + 1))

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
