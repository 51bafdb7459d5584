"""The verdict at any moment at which no worker runs: what is committed is stored, and the ledger is true."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pymilvus import MilvusClient

from tests.support.oracle.contract import Scope
from tests.support.oracle.expected import Expected, History, Version, Wanted, belongs, mismatch
from tests.support.oracle.observed import (
    Log,
    Place,
    Row,
    Stored,
    committed_and_end,
    dead_letter_origins,
    place_of,
    read_all,
    stored_documents,
    stored_ledger,
)
from tests.support.oracle.stored import read_scope
from tests.support.oracle.verdict import Verdict


def judge_prefix(scope: Scope, client: MilvusClient) -> Verdict:
    """With no worker running: every record below the committed offset is stored, or superseded, or dead-lettered.

    And the ledger is true: rows are only where it says (L1), a document that is not pending is exactly the version it
    says (L2).
    """
    wanted = read_scope(scope)
    committed = _committed(scope)
    stored = stored_documents(client, scope.collection, append=scope.contract.append)
    verdict = Verdict(len(wanted.documents), stored.rows, len(wanted.poison))
    if scope.contract.append:
        _judge_appended(wanted, stored, committed, scope.contract.dimension, verdict)
    else:
        _judge_documents(wanted, stored, stored_ledger(client, scope.collection), committed, scope, verdict)
    letters = dead_letter_origins(read_all(scope.bootstrap, scope.dead_letter_topic))
    for topic, partition, offset in wanted.poison.keys() - letters.keys():
        if offset < (until := committed.get((topic, partition), 0)):
            verdict.ahead.append(f"dead letter of {topic}/{partition}/{offset} (committed {until})")
    verdict.set_apart(wanted.shared)
    return verdict


def _committed(scope: Scope) -> dict[Log, int]:
    return {
        (topic, number): max(0, at)
        for topic in scope.topics
        for number, (at, _) in committed_and_end(scope.bootstrap, scope.group, topic).items()
    }


def _judge_documents(  # noqa: PLR0917
    wanted: Expected,
    stored: Stored,
    ledger: Mapping[str, Row],
    committed: Mapping[Log, int],
    scope: Scope,
    verdict: Verdict,
) -> None:
    dimension = scope.contract.dimension
    for name in stored.documents.keys() | ledger.keys() | wanted.versions.keys():
        history = wanted.versions.get(name, History())
        document = _Document(stored.documents.get(name, []), ledger.get(name), history, dimension)
        if problem := document.ledger_lies():
            verdict.ledger_wrong.append(f"{name}: {problem}")
        elif history and (problem := document.behind(committed)):
            verdict.ahead.append(f"{name}: {problem}")


def _judge_appended(
    wanted: Expected, stored: Stored, committed: Mapping[Log, int], dimension: int | None, verdict: Verdict
) -> None:
    for name, history in wanted.versions.items():
        version, rows = history.newest, [row for _, row in stored.documents.get(name, [])]
        if version.document is not None and version.offset < committed.get(version.log, 0):
            if problem := mismatch(version.document, rows, dimension):
                verdict.ahead.append(f"{name} is committed: {problem}")
        elif strange := [row["chunk"] for row in rows if not _may_be_of(row, version)]:
            verdict.ahead.append(f"{name}: chunks {strange} are of another record")
    verdict.resurrected += sorted(stored.documents.keys() - wanted.versions.keys())


@dataclass(frozen=True, slots=True)
class _Document:
    placed: Sequence[tuple[str, Row]]
    entry: Row | None
    history: History
    dimension: int | None

    @property
    def rows(self) -> list[Row]:
        return [row for _, row in self.placed]

    @property
    def place(self) -> Place | None:
        """Of the record that the ledger names; None where it names none, as for a document never stored."""
        if self.entry is None or self.entry["kafka_offset"] < 0:
            return None
        return place_of(self.entry)

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
        named = [each for each in self.history if each.place == self.place]
        if not named:
            return f"of {self.place}, where this document has no record"
        return self._differs(named[0])

    def behind(self, committed: Mapping[Log, int]) -> str:
        """How what is stored is older than all that the document may be, given the committed offsets.

        Or than what the ledger says was there when the change began that is pending.
        """
        possible, required = self.history.since(committed)
        at = next((number for number, each in enumerate(possible) if each.place == self.place), None)
        if at is None:
            # A delete may have been forgotten since (tombstone_retention): then nothing is there, or a new beginning.
            was_deleted = self.place is None and any(each.document is None for each in possible)
            if required and not was_deleted:
                return f"{possible[0].place} is committed, the ledger has {self.place or 'nothing'}"
            return ""
        # A redo of versions that do not rise with the offsets goes through older ones again.
        rising = all(a.offset < b.offset for a, b in pairwise(possible))
        since = possible[at:] if rising else possible
        if any(not self._differs(each) for each in since):
            return ""
        return self._unlike(possible[at], since)

    def _unlike(self, stored: Version, since: Sequence[Version]) -> str:
        """How the rows are not those of a change from `stored` to one of `since` that has not ended."""
        if len(since) == 1 or self.entry is None or not self.entry["pending"]:
            return f"{self.place} was stored: {self._differs(stored)}"
        if strange := [row["chunk"] for row in self.rows if not any(_may_be_of(row, each) for each in since)]:
            return f"{self.place} was stored, chunks {strange} are older"
        if all(each.document is not None and not self._holds(each.document) for each in since):
            return (
                f"{self.place} was stored, now no version is there as a whole: deleted before the new one was written"
            )
        return ""

    def _holds(self, document: Wanted) -> bool:
        """Whether all rows of this version are there, whatever else is."""
        there = [row for partition, row in self.placed if belongs(partition, document.event_time)]
        there.sort(key=lambda row: row["chunk"])
        return any(not mismatch(document, there[:count], self.dimension) for count in range(1, len(there) + 1))

    def _differs(self, version: Version) -> str:
        if version.document is None:
            return f"{len(self.rows)} rows, deleted at {version.offset}" if self.rows else ""
        if not self.rows:
            return f"no rows, stored at {version.offset}"
        problem = mismatch(version.document, self.rows, self.dimension)
        return f"not the version of {version.offset}: {problem}" if problem else ""


def _may_be_of(row: Row, version: Version) -> bool:
    document = version.document
    return document is not None and row["text"] in document.text and row["event_time"] == document.event_time
