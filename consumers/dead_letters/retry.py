"""Putting dead letters back into the topics they came from: look through, leave out what must not go, send."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from consumers.dead_letters.retry_transaction import (
    RetryLog,
    RetryProducer,
    RetryRecord,
    ensure_notes_topic,
    stable_ranges,
)
from consumers.dead_letters.selection import (
    Candidate,
    LetterFilter,
    Outcome,
    headers_back,
    letter_id,
    origin_of,
    rejected_record,
    requested_operation,
    superseded,
)
from consumers.dead_letters.uncommitted_tail import Committed, Progress, UncommittedTail
from consumers.kafka import DeadLetter, KafkaSettings, decode_dead_letter, read_range, records_at
from pipeline.intake import Decoder
from pipeline.records import KafkaPartition, Position, Rejected
from pipeline.store import Entry, Key

log = structlog.get_logger(__name__)

BATCH_LETTERS = 500
BATCH_BYTES = 8 * 2**20
"""Of one transaction."""

Stored = Callable[[Collection[Key]], Mapping[Key, Entry]]
"""The ledger's entries of these documents, as they are now."""


@dataclass(slots=True)
class RetryReport:
    """What was done, or with `dry_run` would be."""

    topic: str
    dry_run: bool
    letters: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """By `Outcome`."""
    rejected_again: Counter[str] = field(default_factory=Counter)
    """Of those put back: by the reason for which the present configuration rejects them again."""
    told: list[dict[str, Any]] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    """Reasons of all letters."""
    stopped: bool = False

    def tell(self, at: Position, origin: Position | None, outcome: Outcome, why: str | None = None) -> None:
        """Count one letter."""
        self.counts[outcome] += 1
        name = None if origin is None else "/".join(map(str, origin))
        self.told.append({"position": f"{at.partition}/{at.offset}", "origin": name, "outcome": outcome, "why": why})

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; these keys are stable."""
        return {
            "dead_letter_topic": self.topic,
            "dry_run": self.dry_run,
            "stopped": self.stopped,
            "letters": self.letters,
            "matched": self.counts.total(),
            **{outcome: self.counts[outcome] for outcome in Outcome},
            "rejected_again": dict(self.rejected_again),
            "outcomes": self.told,
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
        stored: Stored | None,
        create_notes: bool,
    ) -> None:
        """`stored` None: newer versions of a document are not looked for (append mode, `--force`)."""
        self._kafka = kafka
        self._topic = dead_letter_topic
        self._decoder = decoder
        self._committed = committed
        self._partitions = Counter(topic for topic, _ in committed)
        self._stored = stored
        self._create_notes = create_notes
        self._notes = RetryLog(kafka, dead_letter_topic)
        self._tail = UncommittedTail(kafka, decoder, committed)
        self._keys: set[Key] = set()

    def run(
        self,
        wanted: LetterFilter,
        limit: int | None,
        stop: threading.Event,
        *,
        dry_run: bool,
        progress: Progress = lambda *_: None,
    ) -> RetryReport:
        """Look through all letters, then put back batch by batch, the oldest of each Kafka partition first.

        Raises UsageError, Unavailable, and Stopped when another run has taken over.
        """
        report = RetryReport(self._topic, dry_run)
        ranges = stable_ranges(self._kafka, [self._topic])
        if not any(start < end for start, end in ranges.values()):
            return report
        if dry_run:
            self._notes.read()
            candidates = self._look_through(wanted, ranges, report, progress)
            self._each_batch(candidates, limit, stop, report, progress, send=None)
            return report
        ensure_notes_topic(self._kafka, self._topic, create=self._create_notes)
        with RetryProducer(self._kafka, self._topic, self._notes) as put_back:
            candidates = self._look_through(wanted, ranges, report, progress)
            self._each_batch(candidates, limit, stop, report, progress, send=put_back)
        return report

    def _look_through(
        self,
        wanted: LetterFilter,
        ranges: Mapping[KafkaPartition, tuple[int, int]],
        report: RetryReport,
        progress: Progress,
    ) -> list[Candidate]:
        candidates: dict[str, Candidate] = {}
        total = sum(end - start for start, end in ranges.values())
        for record in read_range(self._kafka, ranges):
            letter = decode_dead_letter(record)
            report.letters += 1
            report.seen[letter.reason] += 1
            progress(f"reading {self._topic}", report.letters, total)
            if not wanted.passes(letter):
                continue
            origin = origin_of(letter)
            outcome = self._left_out(letter, origin)
            if origin is None or outcome is not None:
                report.tell(record.position, origin, outcome or Outcome.NO_ORIGIN)
                continue
            name = letter_id(letter, origin)
            if name in self._notes.letter_ids or name in candidates:
                report.tell(record.position, origin, Outcome.RETRIED_BEFORE)
                continue
            asked = requested_operation(rejected_record(letter, origin), self._decoder, time.time_ns() // 1_000_000)
            document, again = (None, asked.reason) if isinstance(asked, Rejected) else (asked, None)
            candidates[name] = Candidate(record.position, name, origin, record.size, document, again)
            if document is not None:
                self._keys.add(document.key)
        return sorted(candidates.values(), key=lambda candidate: candidate.origin)

    def _left_out(self, letter: DeadLetter, origin: Position | None) -> Outcome | None:
        if origin is None:
            return Outcome.NO_ORIGIN
        if origin.topic not in self._partitions:
            return Outcome.OTHER_TOPIC
        at = self._committed.get(origin[:2])
        if at is not None and (at.offset is None or origin.offset >= at.offset):
            recreated = letter.topic_id and at.topic_id and letter.topic_id != at.topic_id
            if not recreated:
                return Outcome.WAITING
        return Outcome.TRUNCATED if letter.truncated else None

    def _each_batch(
        self,
        candidates: Sequence[Candidate],
        limit: int | None,
        stop: threading.Event,
        report: RetryReport,
        progress: Progress,
        *,
        send: RetryProducer | None,
    ) -> None:
        left, done = list(candidates), 0
        while left and not stop.is_set():
            room = BATCH_LETTERS if limit is None else min(BATCH_LETTERS, limit - report.counts[Outcome.PUT_BACK])
            if room <= 0:
                break
            batch = list(_first(left, room))
            left = left[len(batch) :]
            self._one_batch(batch, report, send, progress)
            done += len(batch)
            progress("putting back", done, len(candidates))
            if send is not None:
                log.info("letters.put_back", done=done, of=len(candidates), put_back=report.counts[Outcome.PUT_BACK])
        report.stopped = stop.is_set()
        report.counts[Outcome.LEFT] += len(left)

    def _one_batch(
        self,
        batch: Sequence[Candidate],
        report: RetryReport,
        send: RetryProducer | None,
        progress: Progress,
    ) -> None:
        kept = []
        for candidate, old in zip(batch, self._superseded(batch, progress), strict=True):
            if old:
                report.tell(candidate.at, candidate.origin, Outcome.SUPERSEDED)
            else:
                kept.append(candidate)
        letters = {
            record.position: decode_dead_letter(record) for record in records_at(self._kafka, [one.at for one in kept])
        }
        present = [candidate for candidate in kept if candidate.at in letters]
        for candidate in kept:
            if candidate.at not in letters:
                report.tell(candidate.at, candidate.origin, Outcome.GONE)
        placed: Collection[str] = {one.letter_id for one in present}
        refused: Mapping[str, str] = {}
        if send is not None:
            placed, refused = send.send([self._return(one, letters[one.at]) for one in present])
        for candidate in present:
            if candidate.letter_id in placed:
                again = candidate.rejected_again
                report.rejected_again.update([again] if again else [])
                report.tell(candidate.at, candidate.origin, Outcome.PUT_BACK, again and f"rejected again: {again}")
            elif candidate.letter_id in refused:
                report.tell(candidate.at, candidate.origin, Outcome.REFUSED, refused[candidate.letter_id])
            else:
                report.tell(candidate.at, candidate.origin, Outcome.RETRIED_BEFORE)

    def _superseded(self, batch: Sequence[Candidate], progress: Progress) -> Sequence[bool]:
        if self._stored is None:
            return [False] * len(batch)
        # First the topic and then the ledger: what leaves the one meanwhile has come into the other.
        self._tail.read(self._keys, self._notes.moved, progress)
        stored = self._stored({one.asks.key for one in batch if one.asks is not None})
        result = []
        for one in batch:
            entries: list[Entry] = []
            if one.asks is not None:
                entries = [*self._tail.entries(one.asks.key), *filter(None, [stored.get(one.asks.key)])]
            result.append(one.asks is not None and superseded(one.asks, entries, self._notes.moved))
        return result

    def _return(self, candidate: Candidate, letter: DeadLetter) -> RetryRecord:
        topic, partition, _ = candidate.origin
        return RetryRecord(
            letter_id=candidate.letter_id,
            origin=candidate.origin,
            partition=partition if partition < self._partitions[topic] else None,
            key=letter.record.key,
            value=letter.record.value,
            headers=headers_back(letter),
            timestamp_ms=letter.timestamp_ms,
        )


def _first(candidates: Sequence[Candidate], most: int) -> Iterator[Candidate]:
    """The next ones: at least one, not too many bytes together."""
    size = 0
    for candidate in candidates[:most]:
        size += candidate.size
        if size > BATCH_BYTES and size > candidate.size:
            return
        yield candidate
