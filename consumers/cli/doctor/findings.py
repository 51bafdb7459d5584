"""The findings of `doctor`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from consumers.cli.common.options import FOUND_PROBLEMS
from pipeline.errors import MilvusStreamError, Unavailable

Level = Literal["ok", "warning", "problem"]
CLOCK_SKEW_MS = 30_000
"""A larger difference of two clocks, or a record from further ahead, means a wrong clock: time services do better."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its name, what was seen and what to do about it."""

    check: str
    """Stable words, e.g. `kafka.reachable`, `records.keys`."""
    level: Level
    seen: str
    do: str = ""
    """Empty where there is nothing to do."""
    unreachable: bool = False
    """Kafka or Milvus did not answer."""

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; these keys are stable: `check`, `level` (ok, warning, problem), `seen`, `do`, `unreachable`."""
        return {
            "check": self.check,
            "level": self.level,
            "seen": self.seen,
            "do": self.do,
            "unreachable": self.unreachable,
        }


class Findings(list[Finding]):
    """Collects findings; an error in a check is a finding too, so the other checks are still made."""

    def ok(self, check: str, seen: str) -> None:
        """All is well."""
        self.append(Finding(check, "ok", seen))

    def warning(self, check: str, seen: str, do: str) -> None:
        """Works, but not as well as it could, or not for long."""
        self.append(Finding(check, "warning", seen, do))

    def problem(self, check: str, seen: str, do: str) -> None:
        """A worker stops on this, or records are lost to the dead-letter topic."""
        self.append(Finding(check, "problem", seen, do))

    def failed(self, check: str, error: MilvusStreamError, do: str) -> None:
        """The check itself met an error."""
        away = isinstance(error, Unavailable)
        self.append(Finding(check, "problem", str(error), do, unreachable=away))

    @contextmanager
    def checking(self, check: str, do: str = "see the message") -> Iterator[None]:
        """An error raised on purpose inside becomes a problem of this check."""
        try:
            yield
        except MilvusStreamError as error:
            self.failed(check, error, do)


def exit_code(findings: list[Finding]) -> int:
    """0; 3 if Kafka or Milvus did not answer; 5 if there is any other problem. Warnings do not count."""
    if any(finding.unreachable for finding in findings):
        return Unavailable.exit_code
    return FOUND_PROBLEMS if any(finding.level == "problem" for finding in findings) else 0
