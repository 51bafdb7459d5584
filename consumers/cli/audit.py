"""`milvus-stream audit`: what the topics ask for against what is stored."""

from collections.abc import Mapping

from consumers.audit.job import AuditReport
from consumers.cli.doctor.findings import FOUND_PROBLEMS
from consumers.cli.output import printable, stderr, stdout, table
from consumers.config.settings import Settings
from consumers.kafka import parse_time_range
from consumers.wiring import audit as audit_wiring
from consumers.wiring import common as wiring
from pipeline.errors import UsageError

_DOCUMENTS: Mapping[str, str] = {
    "sound": "as the topic asks",
    "problem": "with findings",
    "unverifiable": "cannot be checked: their records have left the topic, or their Milvus partition is not loaded",
    "undecided": "whose records may have been rejected or pruned, and of which nothing is stored",
    "pruned": "whose Milvus partition was dropped",
    "changing": "being written by a worker meanwhile",
}


def run(settings: Settings, from_: str | None, to: str | None, *, repair: bool, limit: int) -> AuditReport:
    """Audit, and with `repair` mend. See `Audit.run` for the errors; UsageError also for a bad range."""
    if (from_ is None) != (to is None):
        raise UsageError("--from and --to belong together: give both, or none for everything in the topics")
    times = None if from_ is None or to is None else parse_time_range(from_, to)
    with (
        wiring.embedder(settings) as model,
        wiring.milvus(settings) as api,
        audit_wiring.audit(settings, times, api, model, repair=repair, limit=limit) as (audit, mender),
    ):
        return audit.run(mender)


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
    rows += [("documents mended", report.mended)] if report.mended is not None else []
    rows += [(f"not mended: {reason}", count) for reason, count in sorted(report.refused.items())]
    console.print(table(("", f"{report.collection}, group {report.group}"), rows))
    for found in report.findings:
        at = "-" if found["topic"] is None else f"{found['topic']}/{found['partition']}/{found['offset']}"
        tenant = "" if found["tenant"] is None else f" of {found['tenant']}"
        where = ", ".join(found["milvus_partitions"]) or "-"
        console.print(printable(f"{found['kind']}: {found['doc_id']}{tenant} ({at}; {where}): {found['what']}"))
    left = sum(report.kinds.values()) - len(report.findings)
    if left:
        console.print(f"... and {left:,} more: --limit shows them")
    notes = stderr()
    if report.unloaded:
        notes.print(f"note: not loaded, so not read: {', '.join(report.unloaded)}")
    notes.print(f"{'nothing is wrong' if report.clean else 'problems were found'} ({report.seconds:.1f} s)")
