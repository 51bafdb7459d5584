"""The rows of the table: what was measured, what it is to reach, and whether it does."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.report import number

REACHED, MISSED, ELSEWHERE, TOLD = "reached", "NOT REACHED", "not applicable here", "no target"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure beside its target; without a value it could not be measured here, without a target it is only told."""

    part: str
    what: str
    value: float | None
    wanted: float | None = None
    at_most: bool = False
    note: str = ""
    """How it spread, why it is not applicable here, or the profile that explains a target that was not reached."""

    @property
    def verdict(self) -> str:
        """In the words of the table."""
        if self.value is None:
            return ELSEWHERE
        if self.wanted is None:
            return TOLD
        fine = self.value <= self.wanted if self.at_most else self.value >= self.wanted
        return REACHED if fine else MISSED

    def as_dict(self) -> dict[str, Any]:
        """For the line of JSON."""
        return {**asdict(self), "verdict": self.verdict}


def show(out: Console, rows: Sequence[Row]) -> None:
    """The table."""
    table = Table(title="targets", title_justify="left", show_lines=True)
    for column in ("part", "figure", "measured", "target", "", "note"):
        table.add_column(column, justify="right" if column in ("measured", "target") else "left")
    for row in rows:
        sign = "<= " if row.at_most else ">= "
        target = "" if row.wanted is None else sign + number(row.wanted)
        measured = "" if row.value is None else number(row.value)
        table.add_row(row.part, row.what, measured, target, row.verdict, row.note)
    out.print(table)
