"""An audit: what the topics ask for against what is stored, found out without touching the live group.

Records, rows and ledger rows go to a temporary file, then they are compared some thousand documents at a time. What
looks wrong is looked at a second time some seconds later, and left out if a worker may have been at it.
"""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import structlog

from consumers.audit.reading import ReplayedDecision, StoredReader, in_parts, moving, read_operations
from consumers.audit.repair import Repairer
from consumers.audit.scope import AuditSpan, audit_span, dead_letters
from consumers.audit.workspace import AuditWorkspace, StoredDocument
from consumers.kafka import KafkaSettings, TimeRange, topic_ranges
from pipeline.audit.compare import compare_document
from pipeline.audit.expected_state import last_word
from pipeline.audit.findings import KINDS, AuditScope, Finding, Problem
from pipeline.chunking import Chunker
from pipeline.records import Position
from pipeline.store import MilvusServerApi
from pipeline.store.partitions import Granularity
from pipeline.store.writing.protocol import NOWHERE

log = structlog.get_logger(__name__)

SECOND_LOOK_S = 3.0
"""After this time what looked wrong is looked at again: most batches are written within it."""
_PROGRESS_S = 1.0
_LOOKS = 500
"""Documents looked at again at a time."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What is audited."""

    kafka: KafkaSettings
    rejected_positions: Callable[[], Iterable[Position]]
    """Reads the positions of the records in the dead-letter topic."""
    collection: str
    by: Granularity
    fingerprint: str
    append: bool
    deletes_kept_from_ms: int
    """See `AuditScope`."""
    limit: int
    """Findings that are told; all are counted."""
    second_look_s: float = SECOND_LOOK_S


@dataclass(slots=True)
class AuditReport:
    """What an audit found; counts are exact, also where `findings` is cut short."""

    collection: str
    group: str
    times: tuple[str, str] | None
    records: int = 0
    rejected: int = 0
    """Records that are no valid document or delete: they need no row."""
    dead_letters: int = 0
    waiting: int = 0
    rows: int = 0
    ledger_rows: int = 0
    documents: dict[str, int] = field(default_factory=dict)
    other_chunking: int = 0
    unloaded: tuple[str, ...] = ()
    mended: int | None = None
    """Documents that were wrong and are right now; None: nothing was to be mended."""
    refused: dict[str, int] = field(default_factory=dict)
    """Documents that could not be mended, by reason."""
    kinds: dict[str, int] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong (any more)."""
        return not any(self.kinds.values())

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; these keys are stable."""
        told = asdict(self) | {"seconds": round(self.seconds, 3), "clean": self.clean}
        del told["times"]
        told["from"], told["to"] = self.times or (None, None)
        told["truncated"] = sum(self.kinds.values()) > len(self.findings)
        return told


class Progress:
    """A line on stderr for people who wait: what is being done and how far it is."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._what, self._done, self._of = "", 0, 0

    def begin(self, what: str, of: int = 0) -> None:
        """Something else is being done now."""
        self._what, self._done, self._of = what, 0, of

    def told(self, count: int) -> None:
        """So many more are done."""
        self._done += count

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it on a terminal meanwhile."""
        ended = threading.Event()
        shower = threading.Thread(target=self._show, args=(ended,), name="progress", daemon=True)
        if self._stream.isatty():
            shower.start()
        try:
            yield
        finally:
            ended.set()
            if shower.ident is not None:
                shower.join()

    def _show(self, ended: threading.Event) -> None:
        while not ended.wait(_PROGRESS_S):
            of = f" of {self._of:,}" if self._of else ""
            self._stream.write(f"audit: {self._what}: {self._done:,}{of}\x1b[K\r")
            self._stream.flush()
        self._stream.write("\x1b[K")
        self._stream.flush()


class Audit:
    """One audit; single use."""

    def __init__(
        self,
        settings: AuditSettings,
        times: TimeRange | None,
        api: MilvusServerApi,
        *,
        acceptance: ReplayedDecision,
        chunker: Chunker,
        spill: AuditWorkspace,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._append = settings.append
        self._acceptance = acceptance
        self._chunker = chunker
        self._spill = spill
        self._sleep = sleep
        self._span: AuditSpan = audit_span(settings.kafka, times)
        self._reader = StoredReader(api, settings.collection, append=settings.append)
        self._view = AuditScope(
            by=settings.by,
            fingerprint=settings.fingerprint,
            milvus_partitions=self._reader.partitions,
            unloaded=self._reader.unloaded,
            offsets=self._span.read,
            compacted=self._span.compacted,
            topic_ids=self._span.topic_ids,
            deletes_kept_from_ms=settings.deletes_kept_from_ms,
            append=settings.append,
        )
        self._began = time.monotonic()
        self.report = AuditReport(
            collection=settings.collection,
            group=settings.kafka.group_id,
            times=None if times is None else times.text(),
            waiting=self._span.waiting,
            unloaded=tuple(sorted(self._reader.unloaded)),
        )
        self.progress = Progress()

    def run(self, mender: Repairer | None = None) -> AuditReport:
        """Find what is wrong; with a mender, put it right and look again.

        Raises UsageError, Unavailable, Mismatch; with a mender, UsageError where workers of the group are running.
        """
        with self.progress.shown():
            if mender is not None:
                mender.check()
            self._read()
            self._compare()
            if self._spill.count("suspects"):
                self.progress.begin("a second look")
                self._sleep(self._settings.second_look_s)
                self._look_again()
                self._leave_out_what_moves()
            if mender is not None and self._spill.count("suspects"):
                self._mend(mender)
        report = self.report
        report.kinds = dict.fromkeys(KINDS, 0) | self._spill.kinds()
        report.findings = self._spill.findings(self._settings.limit)
        report.documents["problem"] = self._spill.count("suspects")
        report.seconds = time.monotonic() - self._began
        return report

    # --- the first look ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        report, span, progress = self.report, self._span, self.progress
        progress.begin("dead letters")
        for some in in_parts(dead_letters(self._settings.rejected_positions(), span), 1000):
            report.dead_letters += len(some)
            self._spill.add_letters(some)
        progress.begin("records", span.records)
        report.records, report.rejected = read_operations(
            self._settings.kafka,
            span.read,
            self._acceptance,
            self._chunker,
            self._spill,
            append=self._append,
            told=progress.told,
        )
        if not self._append:
            progress.begin("ledger rows")
            report.ledger_rows = self._reader.all_entries(self._spill, progress.told)
        progress.begin("rows")
        report.rows = self._reader.all_rows(self._spill, progress.told)
        self._spill.index()

    def _compare(self) -> None:
        self.progress.begin("documents compared")
        outcomes: Counter[str] = Counter()
        for bucket in self._spill.buckets():
            suspects = []
            for stored in bucket:
                if not self._is_judged(stored):
                    continue
                verdict = self._judge(stored)
                outcomes[verdict.outcome] += 1
                self.report.other_chunking += verdict.unread_chunking
                if verdict.outcome == "problem":
                    suspects.append(stored.key)
            self._spill.suspect(suspects)
            self.progress.told(len(bucket))
        self.report.documents = dict(sorted(outcomes.items()))

    def _is_judged(self, stored: StoredDocument) -> bool:
        """Whether the document is in the range: its newest record is."""
        if self._span.times is None and not self._append:
            return True
        positions = [operation.position for operation in stored.operations]
        if self._append and not positions:
            positions = [row.position for row in stored.rows]
            if any(self._view.where(position) != "here" for position in positions):
                return False
        judged = self._span.judged
        return bool(positions) and all(at.offset < judged.get(at[:2], 0) for at in positions)

    def _judge(self, stored: StoredDocument) -> Finding:
        return compare_document(last_word(stored.operations), stored.entry, stored.rows, self._view)

    # --- the second look ---------------------------------------------------------------------------------------------

    def _look_again(self) -> None:
        for group in self._spill.suspects(_LOOKS):
            self._take(self._reader.again(group), {each.key: each for each in group})
            self.progress.told(len(group))

    def _take(self, documents: Sequence[StoredDocument], before: Mapping[bytes, StoredDocument]) -> None:
        """Keep as findings what is still wrong; forget the others."""
        self._spill.clear(each.key for each in documents)
        wrong = []
        for stored in documents:
            verdict = self._judge(stored)
            if verdict.problems:
                wrong.append(stored.key)
                told = [(p.kind, self._told(before[stored.key], stored, verdict, p)) for p in verdict.problems]
                self._spill.add_findings((stored.key, kind, finding) for kind, finding in told)
            else:
                self._count(verdict.outcome)
        self._spill.suspect(wrong)

    def _told(
        self, before: StoredDocument, stored: StoredDocument, verdict: Finding, problem: Problem
    ) -> dict[str, Any]:
        tenant, doc_id = before.name
        position = verdict.wanted.position if verdict.wanted is not None else NOWHERE
        if position == NOWHERE:
            named = [stored.entry.position] if stored.entry is not None else []
            position = max([*named, *(row.position for row in stored.rows)], default=Position("", -1, -1))
        known = position != NOWHERE
        return {
            "kind": problem.kind,
            "doc_id": doc_id,
            "tenant": tenant,
            "topic": position.topic if known else None,
            "partition": position.partition if known else None,
            "offset": position.offset if known else None,
            "milvus_partitions": list(problem.milvus_partitions),
            "what": problem.sentence,
            "mendable": problem.mendable and verdict.wanted is not None,
        }

    def _leave_out_what_moves(self) -> None:
        """Documents with a record that the group had not committed at the start: a worker may be writing them."""
        ends = topic_ranges(self._settings.kafka, self._settings.kafka.topics)
        ahead = {name: (end, max(end, ends[name][1])) for name, (_, end) in self._span.read.items() if name in ends}
        self.progress.begin("records behind the end", sum(end - start for start, end in ahead.values()))
        for keys in moving(self._settings.kafka, ahead, self._acceptance, self._spill, append=self._append):
            self._spill.clear(keys)
            self._count("changing", len(keys))

    def _count(self, outcome: str, count: int = 1) -> None:
        self.report.documents[outcome] = self.report.documents.get(outcome, 0) + count

    # --- repair ------------------------------------------------------------------------------------------------------

    def _mend(self, mender: Repairer) -> None:
        wrong = self._spill.count("suspects")
        self.progress.begin("documents mended", wrong)
        for group in self._spill.suspects(mender.batch):
            fresh = self._reader.again(group)
            refused = mender.mend([(each, self._judge(each)) for each in fresh], self._view)
            for reason in refused.values():
                self.report.refused[reason] = self.report.refused.get(reason, 0) + 1
            self._take(self._reader.again(group), {each.key: each for each in group})
            self.progress.told(len(group))
        mender.finish()
        self.report.mended = wrong - self._spill.count("suspects")
        log.info("audit.mended", documents=self.report.mended, left=self._spill.count("suspects"))
