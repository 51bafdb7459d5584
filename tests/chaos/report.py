"""What a run has shown, and what people read while it runs."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.oracle.observed import Observation
from tests.support.oracle.verdict import Verdict


@dataclass
class Report:
    """Everything that is counted."""

    seed: int
    minutes: float
    profile: str = ""
    survived: Counter[str] = field(default_factory=Counter)
    """Faults by kind; those that found nobody to strike are not counted."""
    records: int = 0
    documents: int = 0
    rows: int = 0
    dead_letters: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    shown_until_reload: Counter[str] = field(default_factory=Counter)
    """Differences by kind that were gone once Milvus had loaded the collection again."""
    unexplained: list[str] = field(default_factory=list)
    """Kinds of them that this server, used alone, does not show."""
    prefix_checks: int = 0
    longest_stall_s: float = 0.0
    """Longest time without a commit while load ran and no fault hit everybody."""
    longest_stall_with_outages_s: float = 0.0
    caught_up_s: float = 0.0
    """From the last record until all of them were written, everything healed."""
    worker_starts: int = 0
    unexpected_ends: list[str] = field(default_factory=list)
    """Workers and jobs that ended by themselves."""
    jobs: Counter[str] = field(default_factory=Counter)
    """By kind and exit code."""
    peak_rss_mib: float = 0.0
    proxied_faults: int = 0
    """Connections and pieces of data that a proxy has harmed."""

    @property
    def harms(self) -> int:
        """Everything that must be 0."""
        return self.verdict.harms + sum(self.shown_until_reload[kind] for kind in self.unexplained)

    @property
    def failed(self) -> bool:
        """Whether the run is not what it must be."""
        return bool(self.harms or self.unexpected_ends)

    def as_dict(self) -> dict[str, Any]:
        """For the last line of the output."""
        found = self.verdict
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "profile": self.profile,
            "faults": dict(sorted(self.survived.items())),
            "faults_total": sum(self.survived.values()),
            "jobs": dict(sorted(self.jobs.items())),
            "records": self.records,
            "documents": self.documents,
            "rows": self.rows,
            "dead_letters": self.dead_letters,
            "dead_letters_sent": found.dead_letters_sent,
            "lost": len(found.lost),
            "duplicates": len(found.duplicates),
            "stale": len(found.stale),
            "misplaced": len(found.misplaced),
            "resurrected": len(found.resurrected),
            "dead_letters_missing": len(found.dead_letters_missing),
            "dead_letters_wrong": len(found.dead_letters_wrong),
            "ledger_wrong": len(found.ledger_wrong),
            "offsets_ahead": len(found.ahead),
            "offsets_behind": len(found.offsets_behind),
            "shared": len(found.shared),
            "shared_and_unnoticed": len(found.unnoticed),
            "shown_until_reload": sum(self.shown_until_reload.values()),
            "shown_and_not_explained": self.unexplained,
            "harms": self.harms,
            "prefix_checks": self.prefix_checks,
            "longest_stall_s": round(self.longest_stall_s, 1),
            "longest_stall_with_outages_s": round(self.longest_stall_with_outages_s, 1),
            "caught_up_s": round(self.caught_up_s, 1),
            "worker_starts": self.worker_starts,
            "unexpected_ends": len(self.unexpected_ends),
            "peak_rss_mib": round(self.peak_rss_mib),
            "proxied_faults": self.proxied_faults,
        }

    def measure_stalls(
        self, seen: Sequence[Observation], began: float, ended: float, outages: Sequence[tuple[float, float]]
    ) -> None:
        """From what was seen of the committed offsets between `began` and `ended`; `outages` hit everybody."""
        last_at, last = began, -1
        for each in seen:
            total = sum(each.offsets.values())
            if total != last or each.at > ended:
                stall = min(each.at, ended) - last_at
                self.longest_stall_with_outages_s = max(self.longest_stall_with_outages_s, stall)
                if not any(start < each.at and last_at < end for start, end in outages):
                    self.longest_stall_s = max(self.longest_stall_s, stall)
                last_at, last = each.at, total
            if each.at > ended:
                break


def table(reports: Sequence[Report]) -> str:
    """A line a run, in Markdown."""
    head = ["minutes", "seed", "profile", "faults", "records", "rows", "dead letters", "harms", "ended by itself"]
    head += ["stall", "caught up"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for each in reports:
        cells = (
            f"{each.minutes:g}",
            str(each.seed),
            each.profile,
            _faults(each.survived),
            f"{each.records:,}",
            f"{each.rows:,}",
            f"{each.dead_letters:,}",
            str(each.harms),
            str(len(each.unexpected_ends)),
            f"{each.longest_stall_s:.0f} s",
            f"{each.caught_up_s:.0f} s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _faults(survived: Counter[str]) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in survived.most_common())
    return f"{sum(survived.values())}: {kinds}"


def say(text: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"chaos: {time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()
