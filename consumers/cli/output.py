"""How the commands print: tables of plain text on stdout that a record's content cannot bend."""

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 240
"""A pipe has no width: wide enough that no cell is cut short."""


def stdout() -> Console:
    """The console for results."""
    return Console(
        markup=False, emoji=False, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH
    )


def stderr() -> Console:
    """The console for progress, questions and notes."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A table without lines; a column of numbers only stands to the right."""
    cells = [tuple(_cell(value) for value in row) for row in rows]
    made = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        numbers = bool(cells) and all(set(row[index]) <= set("0123456789,-") for row in cells)
        made.add_column(column, justify="right" if numbers else "left", no_wrap=index < len(columns) - 1)
    for row in cells:
        made.add_row(*(Text(cell) for cell in row))
    return made


def printable(text: str) -> str:
    """On one line, control and format characters escaped: text from a record must not steer the terminal."""
    return escaped(" ".join(text.split()))


def escaped(text: str) -> str:
    """Text as it is, line breaks and tabs kept; other control and format characters as Python escapes them."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def utc(epoch_ms: int | None) -> str:
    """RFC 3339 in UTC, seconds; "-" for None or what no calendar holds."""
    if epoch_ms is None:
        return "-"
    try:
        return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return "-"


def span(seconds: float | None) -> str:
    """A length of time in its largest unit: `12 s`, `3.5 h`, `2.0 d`."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))
