"""How the commands print: tables, search results, progress. The content of records is shown and never interpreted."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from pipeline.telemetry import printable
from pipeline.timestamps import format_time

_PIPE_WIDTH = 240
"""The width of a pipe: no cell is cut short."""


def stdout() -> Console:
    """The console for results."""
    return Console(
        markup=False, emoji=False, highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH
    )


def stderr() -> Console:
    """The console for progress, questions and notes."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> Table:
    """A table without lines; columns of numbers are aligned to the right."""
    cells = [tuple(_cell(value) for value in row) for row in rows]
    result = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        numbers = bool(cells) and all(set(row[index]) <= set("0123456789,-") for row in cells)
        result.add_column(column, justify="right" if numbers else "left", no_wrap=index < len(columns) - 1)
    for row in cells:
        result.add_row(*(Text(cell) for cell in row))
    return result


def one_line(text: str) -> str:
    """The text on one line, safe to print: what a record holds must not steer the terminal."""
    return printable(" ".join(text.split()))


def show_results(result: Mapping[str, Any], console: Console, title: str = "") -> None:
    """Print the results of one search as a table; markup in documents has no meaning."""
    # Cells and title are Text: in a plain string rich would interpret square brackets as markup.
    results = Table(
        title=Text(one_line(title)) if title else None,
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        expand=True,
    )
    for column, width in (("score", 5), ("document", 24), ("age", 7), ("partition", 11)):
        results.add_column(column, no_wrap=True, overflow="ellipsis", width=width)
    results.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    now = datetime.now(UTC)
    for hit in result["results"]:
        hours = (now - datetime.fromisoformat(hit["event_time"])).total_seconds() / 3600
        age = f"{hours / 24:.1f} d" if abs(hours) >= 48 else f"{hours:.1f} h"
        row = (f"{hit['score']:.3f}", hit["doc_id"], age, hit["partition"] or "-", hit["text"])
        results.add_row(*(Text(one_line(cell)) for cell in row))
    searched = result["searched"]
    results.caption = (
        f"{result['timing_ms']['search'] + result['timing_ms']['embed']:.0f} ms, "
        f"{searched['partitions']} Milvus partitions searched, {searched['skipped']} skipped"
    )
    results.caption_justify = "left"
    console.print(results)
    for warning in result["warnings"]:
        stderr().print(one_line(f"warning: {warning}"))


def show_answer(answer: Mapping[str, Any], console: Console) -> None:
    """Print the answer of a search: the results of each of its queries, what they were counted and explained as."""
    for one in answer.get("answers", [answer]):
        show_results({**answer, "results": one["results"], "warnings": []}, console)
    if answer["total"] is not None:
        console.print(f"{answer['total']:,} rows match filter and time range", highlight=False)
    if answer["explain"] is not None:
        console.print(Text(json.dumps(answer["explain"], indent=2)))
    for warning in answer["warnings"]:
        stderr().print(one_line(f"warning: {warning}"))


class ProgressLine:
    """One line for a sequence of steps."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._step = ""
        self._task: TaskID | None = None

    def __call__(self, step: str, done: int, total: int | None, detail: str = "") -> None:
        """Show the step with `done` of `total` things done; `total` None: unknown."""
        if self._task is None or step != self._step:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._step, self._task = step, self._progress.add_task(step, total=total, detail="")
        self._progress.update(self._task, completed=done, total=total, detail=detail)


@contextmanager
def progress_line(console: Console | None = None, *, remains: bool = False) -> Iterator[ProgressLine]:
    """A progress line, by default on stderr: removed at the end, and nothing where the console is no terminal.

    `remains`: its last state is printed at the end, on any console.
    """
    console = console or stderr()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[detail]}")
    disable = not (console.is_terminal or remains)
    with Progress(*columns, console=console, transient=not remains, disable=disable) as progress:
        yield ProgressLine(progress)


def utc(epoch_ms: int | None) -> str:
    """RFC 3339 in UTC, seconds; "-" for None or what no calendar holds."""
    if epoch_ms is None:
        return "-"
    try:
        return format_time(epoch_ms // 1000 * 1000)
    except OverflowError:
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
    return f"{value:,}" if isinstance(value, int) else one_line(str(value))
