"""What a run of the fuzzer did and found."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.sent import Received, Sent

MOST_SHOWN = 40


@dataclass
class Finding:
    """The first request that met a check, and how many did."""

    check: str
    wrong: str
    sent: Sent
    count: int = 1


@dataclass
class Report:
    """Counts of requests, the slowest, and findings by route and check."""

    address: str
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    slowest: tuple[float, Sent] | None = None
    seconds_busy: float = 0.0
    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """All that were sent."""
        return sum(counts.total() for counts in self.statuses.values())

    def add(self, sent: Sent, received: Received) -> None:
        """Count one answer."""
        self.statuses.setdefault(sent.route, Counter())[received.status] += 1
        self.seconds_busy += received.seconds
        if self.slowest is None or received.seconds > self.slowest[0]:
            self.slowest = received.seconds, sent

    def find(self, check: str, wrong: str, sent: Sent) -> None:
        """Note one finding; those of one route and check that begin alike are one."""
        key = sent.route, check, wrong[:40]
        if key in self.findings:
            self.findings[key].count += 1
        else:
            self.findings[key] = Finding(check, wrong, sent)

    def lines(self, elapsed_s: float) -> list[str]:
        """The report as text."""
        accepted = sum(counts[200] for counts in self.statuses.values())
        codes = sorted({code for counts in self.statuses.values() for code in counts})
        width = max(map(len, self.statuses), default=0)
        lines = [f"{'requests by route and status':{width}}" + "".join(f"{code:>8}" for code in codes)]
        for route, counts in sorted(self.statuses.items()):
            lines.append(f"{route:{width}}" + "".join(f"{counts[code] or '':>8}" for code in codes))
        lines.append(
            f"{self.requests:,} requests in {elapsed_s:.0f} s ({self.requests / max(elapsed_s, 0.001):.0f}/s; of the "
            f"time {self.seconds_busy:.0f} s in the worker), {accepted / max(self.requests, 1):.0%} accepted"
        )
        if self.slowest is not None:
            lines.append(f"slowest: {self.slowest[0] * 1000:.0f} ms, {self.slowest[1].route}")
        for finding in [*self.findings.values()][:MOST_SHOWN]:
            lines += ["", f"{finding.check}: {finding.sent.route}, {finding.count} times", f"  {finding.wrong}"]
            lines.append(f"  {finding.sent.command(self.address)}")
        lines.append(f"{len(self.findings)} findings")
        return lines

    def as_dict(self, elapsed_s: float) -> dict[str, Any]:
        """The same for programs."""
        return {
            "requests": self.requests,
            "seconds": round(elapsed_s, 1),
            "slowest_ms": round(self.slowest[0] * 1000) if self.slowest else None,
            "statuses": {route: dict(counts) for route, counts in self.statuses.items()},
            "findings": len(self.findings),
        }
