"""The retry of dead letters: selected records go back to the topics they came from."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from consumers.dead_letters.envelope import DeadLetter, decode_dead_letter
from consumers.dead_letters.retry_transaction import RetryLog, RetryProducer, RetryRecord, SentRecords
from consumers.dead_letters.selection import (
    Candidate,
    DeadLetterFilter,
    RetryOutcome,
    origin_of,
    record_id,
    rejected_record,
    requested_operation,
    retry_headers,
    superseded,
)
from consumers.dead_letters.topics import ensure_retry_log
from consumers.dead_letters.uncommitted_tail import Committed, Progress, UncommittedTail
from consumers.kafka import KafkaSettings, read_range, records_at, stable_ranges
from pipeline.intake import Decoder
from pipeline.records import KafkaPartition, Position, Rejected, SourceRecord
from pipeline.store import Entry, Key

log = structlog.get_logger(__name__)

BATCH_RECORDS = 500
BATCH_BYTES = 8 * 2**20
"""Most records and bytes of one transaction."""

ReadEntries = Callable[[Collection[Key]], Mapping[Key, Entry]]
"""Reads the current ledger entries of documents."""


@dataclass(slots=True)
class RetryReport:
    """The outcomes of a run; with `dry_run` those that a run would have."""

    topic: str
    dry_run: bool
    dead_letters: int = 0
    """Dead letters read."""
    counts: Counter[str] = field(default_factory=Counter)
    """Dead letters that pass the filters, by `RetryOutcome`."""
    rejected_again: Counter[str] = field(default_factory=Counter)
    """Retried records that the present configuration rejects again, by reason."""
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    """All dead letters, by reason."""
    stopped: bool = False

    def add(self, position: Position, origin: Position | None, outcome: RetryOutcome, why: str | None = None) -> None:
        """Add the outcome of one dead letter."""
        self.counts[outcome] += 1
        self.outcomes.append(
            {
                "position": f"{position.partition}/{position.offset}",
                "origin": None if origin is None else "/".join(map(str, origin)),
                "outcome": outcome,
                "why": why,
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report for `--json`; these keys are stable."""
        return {
            "dead_letter_topic": self.topic,
            "dry_run": self.dry_run,
            "stopped": self.stopped,
            "dead_letters": self.dead_letters,
            "matched": self.counts.total(),
            **{outcome: self.counts[outcome] for outcome in RetryOutcome},
            "rejected_again": dict(self.rejected_again),
            "outcomes": self.outcomes,
        }


class DeadLetterRetry:
    """One run of `dlq retry`."""

    def __init__(
        self,
        kafka: KafkaSettings,
        dead_letter_topic: str,
        *,
        decoder: Decoder,
        committed: Mapping[KafkaPartition, Committed],
        read_entries: ReadEntries | None,
        create_retry_log: bool,
    ) -> None:
        """`read_entries` None: records are retried even if a newer version is there (append mode, `--force`)."""
        self._kafka = kafka
        self._topic = dead_letter_topic
        self._decoder = decoder
        self._committed = committed
        self._partitions = Counter(topic for topic, _ in committed)
        self._read_entries = read_entries
        self._create_retry_log = create_retry_log
        self._log = RetryLog(kafka, dead_letter_topic)
        self._tail = UncommittedTail(kafka, decoder, committed)
        self._keys: set[Key] = set()

    def run(
        self,
        dead_letter_filter: DeadLetterFilter,
        limit: int | None,
        stop: threading.Event,
        *,
        dry_run: bool,
        progress: Progress = lambda *_: None,
    ) -> RetryReport:
        """Read all dead letters, then retry batch by batch, the oldest of each Kafka partition first.

        Raises UsageError, Unavailable, and Stopped when another run has taken over.
        """
        report = RetryReport(self._topic, dry_run)
        ranges = stable_ranges(self._kafka, [self._topic])
        if not any(start < end for start, end in ranges.values()):
            return report
        if dry_run:
            self._log.read()
            candidates = self._select(dead_letter_filter, ranges, report, progress)
            self._retry_batches(candidates, limit, stop, report, progress, producer=None)
            return report
        ensure_retry_log(self._kafka, self._topic, create=self._create_retry_log)
        with RetryProducer(self._kafka, self._topic, self._log) as producer:
            candidates = self._select(dead_letter_filter, ranges, report, progress)
            self._retry_batches(candidates, limit, stop, report, progress, producer=producer)
        return report

    def _select(
        self,
        dead_letter_filter: DeadLetterFilter,
        ranges: Mapping[KafkaPartition, tuple[int, int]],
        report: RetryReport,
        progress: Progress,
    ) -> list[Candidate]:
        """Read the dead letters and return those that may be retried, ordered by the position of their records."""
        candidates: dict[str, Candidate] = {}
        total = sum(end - start for start, end in ranges.values())
        for record in read_range(self._kafka, ranges):
            dead_letter = decode_dead_letter(record)
            report.dead_letters += 1
            report.reasons[dead_letter.reason] += 1
            progress(f"reading {self._topic}", report.dead_letters, total)
            if not dead_letter_filter.passes(dead_letter):
                continue
            origin = origin_of(dead_letter)
            outcome = self._excluded(dead_letter, origin)
            if origin is None or outcome is not None:
                report.add(record.position, origin, outcome or RetryOutcome.NO_ORIGIN)
                continue
            candidate = self._candidate(record, dead_letter, origin)
            if candidate.record_id in self._log.record_ids or candidate.record_id in candidates:
                report.add(record.position, origin, RetryOutcome.RETRIED_BEFORE)
                continue
            candidates[candidate.record_id] = candidate
            if candidate.operation is not None:
                self._keys.add(candidate.operation.key)
        return sorted(candidates.values(), key=lambda candidate: candidate.origin)

    def _candidate(self, record: SourceRecord, dead_letter: DeadLetter, origin: Position) -> Candidate:
        operation = requested_operation(
            rejected_record(dead_letter, origin), self._decoder, time.time_ns() // 1_000_000
        )
        return Candidate(
            position=record.position,
            record_id=record_id(dead_letter, origin),
            origin=origin,
            size=record.size,
            operation=None if isinstance(operation, Rejected) else operation,
            rejected_again=operation.reason if isinstance(operation, Rejected) else None,
        )

    def _excluded(self, dead_letter: DeadLetter, origin: Position | None) -> RetryOutcome | None:
        """Return why a dead letter must not be retried, if the dead letter itself shows it; None: it may be."""
        if origin is None:
            return RetryOutcome.NO_ORIGIN
        if origin.topic not in self._partitions:
            return RetryOutcome.OTHER_TOPIC
        committed = self._committed.get(origin[:2])
        if committed is not None and (committed.offset is None or origin.offset >= committed.offset):
            recreated = dead_letter.topic_id and committed.topic_id and dead_letter.topic_id != committed.topic_id
            if not recreated:
                return RetryOutcome.WAITING
        return RetryOutcome.TRUNCATED if dead_letter.truncated else None

    def _retry_batches(
        self,
        candidates: Sequence[Candidate],
        limit: int | None,
        stop: threading.Event,
        report: RetryReport,
        progress: Progress,
        *,
        producer: RetryProducer | None,
    ) -> None:
        """Retry the candidates batch by batch; `producer` None: a dry run."""
        done = 0
        while done < len(candidates) and not stop.is_set():
            retried = report.counts[RetryOutcome.RETRIED]
            batch_limit = BATCH_RECORDS if limit is None else min(BATCH_RECORDS, limit - retried)
            if batch_limit <= 0:
                break
            batch = _next_batch(candidates[done : done + batch_limit])
            self._retry_batch(batch, report, progress, producer)
            done += len(batch)
            progress("retrying", done, len(candidates))
            if producer is not None:
                retried = report.counts[RetryOutcome.RETRIED]
                log.info("dead_letters.retried", done=done, of=len(candidates), retried=retried)
        report.stopped = stop.is_set()
        report.counts[RetryOutcome.LEFT] += len(candidates) - done

    def _retry_batch(
        self, batch: Sequence[Candidate], report: RetryReport, progress: Progress, producer: RetryProducer | None
    ) -> None:
        """Filter, read, send and report one batch."""
        current = self._without_superseded(batch, report, progress)
        dead_letters = self._read(current, report)
        present = [candidate for candidate in current if candidate.position in dead_letters]
        if producer is None:
            sent = SentRecords({candidate.record_id: candidate.origin for candidate in present}, {})
        else:
            sent = producer.send(
                [self._retry_record(candidate, dead_letters[candidate.position]) for candidate in present]
            )
        _report_sent(present, sent, report)

    def _without_superseded(
        self, batch: Sequence[Candidate], report: RetryReport, progress: Progress
    ) -> Sequence[Candidate]:
        """Return the candidates without a newer version of their document, and report the others."""
        if self._read_entries is None:
            return batch
        # The topic is read before the ledger: a record that leaves the one in between has come into the other.
        self._tail.read(self._keys, self._log.moved, progress)
        stored = self._read_entries({candidate.operation.key for candidate in batch if candidate.operation is not None})
        current = []
        for candidate in batch:
            if candidate.operation is not None:
                key = candidate.operation.key
                entries = [*self._tail.entries(key), *([stored[key]] if key in stored else [])]
                if superseded(candidate.operation, entries, self._log.moved):
                    report.add(candidate.position, candidate.origin, RetryOutcome.SUPERSEDED)
                    continue
            current.append(candidate)
        return current

    def _read(self, candidates: Sequence[Candidate], report: RetryReport) -> Mapping[Position, DeadLetter]:
        """Read the dead letters again, with their bytes, and report those that are gone."""
        positions = [candidate.position for candidate in candidates]
        dead_letters = {record.position: decode_dead_letter(record) for record in records_at(self._kafka, positions)}
        for candidate in candidates:
            if candidate.position not in dead_letters:
                report.add(candidate.position, candidate.origin, RetryOutcome.GONE)
        return dead_letters

    def _retry_record(self, candidate: Candidate, dead_letter: DeadLetter) -> RetryRecord:
        topic, partition, _ = candidate.origin
        return RetryRecord(
            record_id=candidate.record_id,
            origin=candidate.origin,
            partition=partition if partition < self._partitions[topic] else None,
            key=dead_letter.record.key,
            value=dead_letter.record.value,
            headers=retry_headers(dead_letter),
            timestamp_ms=dead_letter.timestamp_ms,
        )


def _report_sent(candidates: Sequence[Candidate], sent: SentRecords, report: RetryReport) -> None:
    for candidate in candidates:
        if candidate.record_id in sent.positions:
            reason = candidate.rejected_again
            report.rejected_again.update([reason] if reason else [])
            why = reason and f"rejected again: {reason}"
            report.add(candidate.position, candidate.origin, RetryOutcome.RETRIED, why)
        elif candidate.record_id in sent.refused:
            why = sent.refused[candidate.record_id]
            report.add(candidate.position, candidate.origin, RetryOutcome.REFUSED, why)
        else:
            report.add(candidate.position, candidate.origin, RetryOutcome.RETRIED_BEFORE)


def _next_batch(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return the first candidates that have at most BATCH_BYTES together; at least one."""
    size = 0
    for number, candidate in enumerate(candidates):
        size += candidate.size
        if size > BATCH_BYTES and number:
            return candidates[:number]
    return candidates
