"""The audit job: compares what the topics require with what is stored, without disturbing the live group.

Records, rows and ledger rows are read into a temporary file and compared, some thousand documents at a time. Documents
with problems are compared a second time some seconds later, and left out if a worker may be writing them.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from consumers.audit.reading import ReplayedDecision, StoredReader, in_parts, keys_in_flight, read_operations
from consumers.audit.repair import Repairer
from consumers.audit.scope import AuditSpan, audit_span, dead_letters
from consumers.audit.workspace import AuditWorkspace, StoredDocument
from consumers.kafka import KafkaSettings, TimeRange, topic_ranges
from pipeline.audit import KINDS, AppendedIds, AuditScope, ExpectedState, Finding, compare_document
from pipeline.chunking import Chunker
from pipeline.records import Position
from pipeline.store import NOWHERE, AppendIds, Key, MilvusServerApi, Partitioning

log = structlog.get_logger(__name__)

SECOND_PASS_S = 3.0
"""Before the second comparison: most batches are written within this time."""
_SECOND_PASS_DOCUMENTS = 500
"""Documents compared a second time at once."""
OnProgress = Callable[[str, int, int | None], None]
"""Called with the current step, how many things are done in it, and of how many (None: unknown)."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What to audit."""

    kafka: KafkaSettings
    rejected_positions: Callable[[], Iterable[Position]]
    """Reads the positions of the records in the dead-letter topic."""
    collection: str
    partitioning: Partitioning
    fingerprint: str
    append_ids: AppendIds | None
    """As the collection's stamp says; None in upsert mode."""
    former_topic_ids: Mapping[str, Collection[str]]
    """As in `AppendedIds`."""
    deletes_kept_from_ms: int
    """As in `AuditScope`."""
    limit: int
    """Findings in the report; all are counted."""
    second_pass_s: float = SECOND_PASS_S


@dataclass(slots=True)
class AuditReport:
    """The result of an audit; counts are exact, also where `findings` is cut short."""

    collection: str
    group: str
    times: tuple[str, str] | None
    records: int = 0
    rejected: int = 0
    """Records that are not a valid document or delete, and so need no row."""
    dead_letters: int = 0
    waiting: int = 0
    rows: int = 0
    ledger_rows: int = 0
    documents: dict[str, int] = field(default_factory=dict)
    other_chunking: int = 0
    unloaded: tuple[str, ...] = ()
    repaired: int | None = None
    """Documents that had problems and have none now; None: without repair."""
    refused: dict[str, int] = field(default_factory=dict)
    """Documents that could not be repaired, by reason."""
    kinds: dict[str, int] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether there is no problem, or none is left."""
        return not any(self.kinds.values())

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; these keys are stable."""
        report = asdict(self) | {"seconds": round(self.seconds, 3), "clean": self.clean}
        del report["times"]
        report["from"], report["to"] = self.times or (None, None)
        report["truncated"] = sum(self.kinds.values()) > len(self.findings)
        return report


class _Steps:
    """The current step of an audit and how far it is."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._step, self._done = "", 0
        self._total: int | None = None

    def begin(self, step: str, total: int | None = None) -> None:
        """Begin another step."""
        self._step, self._done, self._total = step, 0, total
        self.advance(0)

    def advance(self, count: int) -> None:
        """Report that so many more are done."""
        self._done += count
        self._on_progress(self._step, self._done, self._total)


class Audit:
    """One audit; single use."""

    def __init__(
        self,
        settings: AuditSettings,
        times: TimeRange | None,
        api: MilvusServerApi,
        *,
        decision: ReplayedDecision,
        chunker: Chunker,
        workspace: AuditWorkspace,
        on_progress: OnProgress,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._append = settings.append_ids is not None
        self._decision = decision
        self._chunker = chunker
        self._workspace = workspace
        self._steps = _Steps(on_progress)
        self._sleep = sleep
        self._span: AuditSpan = audit_span(settings.kafka, times)
        self._appended = None
        if settings.append_ids is not None:
            self._appended = AppendedIds(settings.append_ids, self._span.topic_ids, settings.former_topic_ids)
        self._reader = StoredReader(api, settings.collection, self._appended)
        self._scope = AuditScope(
            partitioning=settings.partitioning,
            fingerprint=settings.fingerprint,
            milvus_partitions=self._reader.partitions,
            unloaded=self._reader.unloaded,
            offsets=self._span.read,
            compacted=self._span.compacted,
            topic_ids=self._span.topic_ids,
            deletes_kept_from_ms=settings.deletes_kept_from_ms,
            appended=self._appended,
        )
        self._began = time.monotonic()
        self.report = AuditReport(
            collection=settings.collection,
            group=settings.kafka.group_id,
            times=None if times is None else times.text(),
            waiting=self._span.waiting,
            unloaded=tuple(sorted(self._reader.unloaded)),
        )

    def run(self, repairer: Repairer | None = None) -> AuditReport:
        """Find the problems; with a repairer, repair the documents and compare them again.

        Raises UsageError, Unavailable, Mismatch; with a repairer, UsageError while workers of the group run.
        """
        if repairer is not None:
            repairer.check()
        self._read()
        self._compare()
        if self._workspace.count("suspects"):
            self._steps.begin("documents compared again")
            self._sleep(self._settings.second_pass_s)
            self._compare_again()
            self._leave_out_keys_in_flight()
        if repairer is not None and self._workspace.count("suspects"):
            self._repair(repairer)
        report = self.report
        report.kinds = dict.fromkeys(KINDS, 0) | self._workspace.kinds()
        report.findings = self._workspace.findings(self._settings.limit)
        report.documents["problem"] = self._workspace.count("suspects")
        report.seconds = time.monotonic() - self._began
        return report

    # --- the first pass ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        report, span, steps = self.report, self._span, self._steps
        steps.begin("dead letters")
        for part in in_parts(dead_letters(self._settings.rejected_positions(), span), 1000):
            report.dead_letters += len(part)
            self._workspace.add_dead_letters(part)
        steps.begin("records", span.records)
        report.records, report.rejected = read_operations(
            self._settings.kafka,
            span.read,
            self._decision,
            self._chunker,
            self._workspace,
            appended=self._appended,
            on_read=steps.advance,
        )
        if not self._append:
            steps.begin("ledger rows")
            report.ledger_rows = self._reader.all_entries(self._workspace, steps.advance)
        steps.begin("rows")
        report.rows = self._reader.all_rows(self._workspace, steps.advance)
        self._workspace.index()

    def _compare(self) -> None:
        self._steps.begin("documents compared")
        outcomes: Counter[str] = Counter()
        for bucket in self._workspace.buckets():
            suspects = []
            for document in bucket:
                if not self._in_span(document):
                    continue
                finding = self._compare_one(document)
                outcomes[finding.outcome] += 1
                self.report.other_chunking += finding.unread_chunking
                if finding.outcome == "problem":
                    suspects.append(document.key)
            self._workspace.suspect(suspects)
            self._steps.advance(len(bucket))
        self.report.documents = dict(sorted(outcomes.items()))

    def _in_span(self, document: StoredDocument) -> bool:
        """Whether the document's newest record is in the span."""
        if self._span.times is None and not self._append:
            return True
        positions = [operation.position for operation in document.operations]
        if self._appended is not None and not positions:
            positions = [row.position for row in document.rows]
            if any(self._scope.where(position) != "here" for position in positions):
                return False
            if any(self._appended.of_former_topic(row) for row in document.rows):
                return False
        ends = self._span.compared
        return bool(positions) and all(position.offset < ends.get(position[:2], 0) for position in positions)

    def _compare_one(self, document: StoredDocument) -> Finding:
        return compare_document(ExpectedState.of(document.operations), document.entry, document.rows, self._scope)

    # --- the second pass ---------------------------------------------------------------------------------------------

    def _compare_again(self) -> None:
        for group in self._workspace.suspects(_SECOND_PASS_DOCUMENTS):
            self._replace_findings(self._reader.again(group), {document.key: document for document in group})
            self._steps.advance(len(group))

    def _replace_findings(self, documents: Sequence[StoredDocument], before: Mapping[bytes, StoredDocument]) -> None:
        """Report the documents that still have problems, and forget the others."""
        self._workspace.clear(document.key for document in documents)
        suspects = []
        for document in documents:
            finding = self._compare_one(document)
            if finding.problems:
                suspects.append(document.key)
                reported = _reported(before[document.key].name, document, finding)
                self._workspace.add_findings((document.key, problem["kind"], problem) for problem in reported)
            else:
                self._count(finding.outcome)
        self._workspace.suspect(suspects)

    def _leave_out_keys_in_flight(self) -> None:
        """Leave out documents with a record that the group had not committed at the start: a worker may write them."""
        ends = topic_ranges(self._settings.kafka, self._settings.kafka.topics)
        ahead = {name: (end, max(end, ends[name][1])) for name, (_, end) in self._span.read.items() if name in ends}
        self._steps.begin("records behind the end", sum(end - start for start, end in ahead.values()))
        for keys in keys_in_flight(
            self._settings.kafka, ahead, self._decision, self._workspace, appended=self._appended
        ):
            self._workspace.clear(keys)
            self._count("changing", len(keys))

    def _count(self, outcome: str, count: int = 1) -> None:
        self.report.documents[outcome] = self.report.documents.get(outcome, 0) + count

    # --- repair ------------------------------------------------------------------------------------------------------

    def _repair(self, repairer: Repairer) -> None:
        before = self._workspace.count("suspects")
        self._steps.begin("documents repaired", before)
        for group in self._workspace.suspects(repairer.batch):
            fresh = self._reader.again(group)
            refused = repairer.repair([(document, self._compare_one(document)) for document in fresh], self._scope)
            for reason in refused.values():
                self.report.refused[reason] = self.report.refused.get(reason, 0) + 1
            self._replace_findings(self._reader.again(group), {document.key: document for document in group})
            self._steps.advance(len(group))
        repairer.finish()
        remaining = self._workspace.count("suspects")
        self.report.repaired = before - remaining
        log.info("audit.repaired", documents=self.report.repaired, remaining=remaining)


def _reported(name: Key, document: StoredDocument, finding: Finding) -> list[dict[str, Any]]:
    """The problems of a finding as the report holds them."""
    tenant, doc_id = name
    position = finding.expected.position if finding.expected is not None else NOWHERE
    if position == NOWHERE:
        named = [document.entry.position] if document.entry is not None else []
        position = max([*named, *(row.position for row in document.rows)], default=NOWHERE)
    known = position != NOWHERE
    return [
        {
            "kind": problem.kind,
            "doc_id": doc_id,
            "tenant": tenant,
            "topic": position.topic if known else None,
            "partition": position.partition if known else None,
            "offset": position.offset if known else None,
            "milvus_partitions": list(problem.milvus_partitions),
            "what": problem.sentence,
            "repairable": problem.repairable and finding.expected is not None,
        }
        for problem in finding.problems
    ]
