"""`milvus-stream doctor`: checks of everything a worker needs, without changing anything."""

import time
from collections.abc import Sequence

from rich.text import Text

from consumers.cli.common.output import one_line, stdout
from consumers.cli.doctor.findings import Finding, Findings, exit_code
from consumers.cli.doctor.kafka import examine_kafka
from consumers.cli.doctor.milvus import examine_milvus, examine_model
from consumers.cli.doctor.positions import examine_positions
from consumers.config import Settings
from consumers.wiring.validation import check_settings

__all__ = ["Finding", "examine", "exit_code", "show"]

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "bold yellow"), "problem": ("PROBLEM", "bold red")}


def examine(settings: Settings, now_ms: int | None = None) -> list[Finding]:
    """Make every check that can be made; a failed check does not stop the others.

    Raises UsageError only for a configuration that is wrong in itself.
    """
    check_settings(settings)
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    findings = Findings()
    examine_kafka(settings, findings, now_ms)
    own = examine_model(settings, findings)
    examine_milvus(settings, own, findings, now_ms)
    examine_positions(settings, findings)
    return findings


def show(findings: Sequence[Finding]) -> None:
    """Print one line for each finding and one for what to do."""
    console = stdout()
    for finding in findings:
        word, style = _MARKS[finding.level]
        line = Text(f"{word:<8}", style=style)
        line.append(f" {finding.check:<20} {one_line(finding.seen)}", style="default")
        console.print(line)
        if finding.do:
            console.print(f"{'':<30}-> {one_line(finding.do)}")
    levels = [finding.level for finding in findings]
    console.print(f"\n{len(levels)} checks: {levels.count('problem')} problems, {levels.count('warning')} warnings")
