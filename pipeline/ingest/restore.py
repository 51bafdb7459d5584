"""Restore of documents that a rejected record would leave between two versions.

A crash in the middle of a write leaves rows of two versions and a pending ledger row; the redo of the record repairs
that. If the redo rejects the record (its time is outside of the window by now, a limit or the mapping has changed),
or Milvus refuses it half-way, nothing would. So the document gets its stored version back first, from the record in
Kafka that the ledger names, and the rejected record goes to the dead letters behind that.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import structlog

from pipeline.ingest.circuit_breaker import CircuitBreaker
from pipeline.ingest.decoding import PatientDecoder
from pipeline.ingest.ownership.redo_bounds import RedoBounds
from pipeline.ingest.ports import RecordLookup
from pipeline.ingest.stages import Refused
from pipeline.records import Delete, Position, Put, Rejected, SourceRecord
from pipeline.store import NOWHERE, Entry, Key, Unfinished, Writer, ledger_id
from pipeline.telemetry import IngestMetrics

_NO_TIME = -1

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Verdict:
    """What becomes of the rejected records of a batch."""

    send: list[Rejected] = field(default_factory=list)
    """To the dead letters at once."""
    restoring: list[Refused] = field(default_factory=list)
    """To the dead letters once the operations are written."""
    operations: list[Put | Delete] = field(default_factory=list)
    """These restore the documents of `restoring`."""
    postponed: list[Refused] = field(default_factory=list)
    """To be submitted again: an operation that is still to be written may make the document whole."""


class DocumentRestorer:
    """Finds the documents that rejected records leave unfinished, and what restores each."""

    def __init__(
        self,
        *,
        decoder: PatientDecoder,
        writer: Writer,
        lookup: RecordLookup,
        breaker: CircuitBreaker,
        bounds: RedoBounds,
        metrics: IngestMetrics,
    ) -> None:
        self._decoder = decoder
        self._writer = writer
        self._lookup = lookup
        self._breaker = breaker
        self._bounds = bounds
        self._metrics = metrics

    def decide(self, rejected: Sequence[Rejected | Refused], busy: Collection[Key]) -> Verdict:
        """Sort out rejected records; `busy`: keys with an operation in the same batch.

        1. Nobody can have begun to write the record, or it names no document, or one that is whole: sent.
        2. An operation that is not written yet, of this batch or an earlier one, has the same key: postponed.
        3. The document can be restored: sent behind its restoration.
        4. It cannot: sent. The ledger row stays pending, and `audit` reports it.
        """
        verdict = Verdict()
        by_key: dict[Key, list[Refused]] = {}
        for entry in rejected:
            if isinstance(entry, Refused):
                by_key.setdefault(entry.key, []).append(entry)
            elif (
                self._bounds.maybe_written(entry.position) and (key := self._decoder.identify(entry.record)) is not None
            ):
                by_key.setdefault(key, []).append(Refused(key, entry))
            else:
                verdict.send.append(entry)
        unfinished = self._unfinished(by_key)
        operations = self._restorations(
            {key: found.entry for key, found in unfinished.items() if not found.in_flight and key not in busy},
            {key: entries[0].rejected.record for key, entries in by_key.items()},
        )
        for key, entries in by_key.items():
            if key not in unfinished:
                verdict.send += [entry.rejected for entry in entries]
            elif unfinished[key].in_flight or key in busy:
                verdict.postponed += entries
            elif (operation := operations.get(key)) is not None:
                verdict.operations.append(operation)
                verdict.restoring += entries
            else:
                self.report(key, restored=False)
                verdict.send += [entry.rejected for entry in entries]
        return verdict

    def _unfinished(self, by_key: dict[Key, list[Refused]]) -> dict[Key, Unfinished]:
        if not by_key:
            return {}
        doubted = {
            key
            for key, entries in by_key.items()
            if any(self._bounds.maybe_written(entry.rejected.position) for entry in entries)
        }
        return dict(self._breaker.call("plan", lambda: self._writer.unfinished(by_key.keys(), doubted)))

    def _restorations(self, entries: dict[Key, Entry], causes: dict[Key, SourceRecord]) -> dict[Key, Put | Delete]:
        """The operation that restores each document, for those that can be restored."""
        live = {entry.position: entry.topic_id for entry in entries.values() if entry.state == "live"}
        records = self._breaker.call("restore", lambda: self._lookup.read(live)) if live else {}
        operations: dict[Key, Put | Delete] = {}
        for key, entry in entries.items():
            if entry.state == "deleted":
                operations[key] = _deletion(entry, causes[key])
            elif (record := records.get(entry.position)) is not None:
                operation = self._decoder.decode(record, None)
                if isinstance(operation, Put) and operation.key == key:
                    version = entry.version if entry.versioned else None
                    operations[key] = replace(operation, version=version, topic_id=entry.topic_id)
        return operations

    def report(self, key: Key, *, restored: bool) -> None:
        """Count a document that has its stored version again, or that stays between two versions."""
        self._metrics.restored.labels("restored" if restored else "impossible").inc()
        ledger_row = ledger_id(*key)
        if restored:
            log.warning("document.restored", ledger_row=ledger_row, why="the record that was to change it is rejected")
        else:
            log.error(
                "document.not_restored",
                ledger_row=ledger_row,
                why="the record of its stored version has left the topic, or can no longer be stored",
                what="rows of two versions may be found until its next record is stored; `audit` reports it",
            )


def _deletion(entry: Entry, cause: SourceRecord) -> Delete:
    """What restores a document that was deleted, or never stored.

    Of one that was never stored a deletion at the rejected record remains, so that rows which come back after a loss
    are known. It has no time: a record of another Kafka partition must not lose to it.
    """
    at: tuple[Position, int, str] = (entry.position, entry.record_time, entry.topic_id)
    if entry.position == NOWHERE:
        at = (cause.position, _NO_TIME, cause.topic_id)
    version = entry.version if entry.versioned else None
    return Delete(at[0], at[1], entry.doc_id, entry.tenant, version, at[2])
