"""A line on stderr that shows what a command is doing and how far it is; nothing where stderr is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from consumers.cli.output import stderr


class ProgressLine:
    """One line for a sequence of steps."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._step = ""
        self._task: TaskID | None = None

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Show the step with so many of `total` things done; `total` None: unknown."""
        if self._task is None or step != self._step:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._step, self._task = step, self._progress.add_task(step, total=total)
        self._progress.update(self._task, completed=done)


@contextmanager
def progress_line(console: Console | None = None) -> Iterator[ProgressLine]:
    """A progress line that is removed at the end; by default on stderr."""
    console = console or stderr()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield ProgressLine(progress)
