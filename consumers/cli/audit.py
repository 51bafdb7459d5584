"""`milvus-stream audit`: what the topics ask for against what is stored."""

from collections.abc import Mapping
from contextlib import ExitStack

from consumers.audit.job import AuditReport
from consumers.cli.common.options import FOUND_PROBLEMS
from consumers.cli.common.output import one_line, progress_line, stderr, stdout, table
from consumers.config import Settings
from consumers.kafka import parse_time_range
from consumers.wiring import audit as audit_wiring
from consumers.wiring import connections, documents
from consumers.wiring.start_checks import check_audit
from consumers.wiring.validation import check_settings
from pipeline.errors import UsageError

_RECOVERING_S = 600.0
"""How long a read waits for a shard that is not serviceable: some minutes on Milvus 2.6, too short to end an audit."""
_DOCUMENTS: Mapping[str, str] = {
    "sound": "as the topic asks",
    "problem": "with findings",
    "unverifiable": "cannot be checked: their records have left the topic, or their Milvus partition is not loaded",
    "undecided": "whose records may have been rejected or pruned, and of which nothing is stored",
    "pruned": "whose Milvus partition was dropped",
    "changing": "being written by a worker",
}


def run(settings: Settings, from_: str | None, to: str | None, *, repair: bool, limit: int) -> AuditReport:
    """Audit, and with `repair` repair. Raises what `Audit.run` raises, and UsageError for a bad range."""
    if (from_ is None) != (to is None):
        raise UsageError("--from and --to belong together: give both, or none for everything in the topics")
    times = None if from_ is None or to is None else parse_time_range(from_, to)
    check_settings(settings)
    with ExitStack() as stack:
        api = stack.enter_context(connections.milvus(settings, recovering_s=_RECOVERING_S))
        check_audit(settings, api)
        # Without --repair no vector is computed. The model is needed all the same: its tokenizer cuts the texts as they
        # are stored, and its stamp says whether they were cut and embedded by this model.
        model = stack.enter_context(documents.embedder(settings))
        line = stack.enter_context(progress_line())
        audit, repairer = stack.enter_context(
            audit_wiring.audit(settings, times, api, model, repair=repair, limit=limit, on_progress=line)
        )
        return audit.run(repairer)


def exit_code(report: AuditReport) -> int:
    """0 where nothing is wrong (any more), else 5."""
    return 0 if report.clean else FOUND_PROBLEMS


def show(report: AuditReport) -> None:
    """Print counts and findings."""
    console = stdout()
    rows: list[tuple[object, ...]] = [("records read", report.records), ("of them rejected", report.rejected)]
    rows += [("records not committed yet", report.waiting)] if report.waiting else []
    rows += [("rows", report.rows), ("ledger rows", report.ledger_rows)]
    rows += [
        (f"documents {text}", report.documents[name]) for name, text in _DOCUMENTS.items() if report.documents.get(name)
    ]
    rows += (
        [("documents cut by another chunking, texts not compared", report.other_chunking)]
        if report.other_chunking
        else []
    )
    rows += [(f"findings: {kind}", count) for kind, count in report.kinds.items() if count]
    rows += [("documents repaired", report.repaired)] if report.repaired is not None else []
    rows += [(f"not repaired: {reason}", count) for reason, count in sorted(report.refused.items())]
    console.print(table(("", f"{report.collection}, group {report.group}"), rows))
    for finding in report.findings:
        at = "-" if finding["topic"] is None else f"{finding['topic']}/{finding['partition']}/{finding['offset']}"
        tenant = "" if finding["tenant"] is None else f" of {finding['tenant']}"
        where = ", ".join(finding["milvus_partitions"]) or "-"
        console.print(one_line(f"{finding['kind']}: {finding['doc_id']}{tenant} ({at}; {where}): {finding['what']}"))
    hidden = sum(report.kinds.values()) - len(report.findings)
    if hidden:
        console.print(f"... and {hidden:,} more: --limit shows them")
    notes = stderr()
    if report.unloaded:
        notes.print(f"note: not loaded, so not read: {', '.join(report.unloaded)}")
    notes.print(f"{'nothing is wrong' if report.clean else 'problems were found'} ({report.seconds:.1f} s)")
