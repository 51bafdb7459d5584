"""A search that is repeated at an interval: the whole answer on a terminal, elsewhere what is new or changed."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text
from typing_extensions import override

from consumers.cli.common.output import one_line, stderr
from consumers.cli.common.results import show_answer, show_result, show_total
from pipeline.errors import MilvusStreamError, Mismatch, UsageError
from pipeline.telemetry import printable
from pipeline.timestamps import format_duration, parse_duration

_LEAST, _MOST = timedelta(seconds=1), timedelta(days=1)
_NOT_COMPARED = ("score", "scores", "highlights", "passage")
"""They change with time and with other documents, or follow from the text."""


class View(Protocol):
    """Where the answer of each round is shown."""

    def show(self, answer: Mapping[str, Any]) -> None:
        """Show an answer."""


def parse_interval(text: str) -> timedelta:
    """The time between two rounds. Raises UsageError."""
    try:
        interval = parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--watch {text!r}: {error}") from None
    if not _LEAST <= interval <= _MOST:
        raise UsageError(f"--watch {text!r}: must be from {format_duration(_LEAST)} to {format_duration(_MOST)}")
    return interval


def watch(
    ask: Callable[[], Mapping[str, Any]],
    view: View,
    interval: timedelta,
    wait: Callable[[float], bool],
    *,
    began: Callable[[], None] = lambda: None,
) -> None:
    """Search and show the answer, again and again.

    `wait` takes the seconds until the next round; true: end. `began` is called when there is a first answer. A failed
    round is one line on stderr, the failed ones directly after it none. Raises UsageError and Mismatch, which another
    round would meet again.
    """
    failing = answered = False
    while True:
        try:
            answer = ask()
        except (UsageError, Mismatch):
            raise
        except MilvusStreamError as error:
            if not failing:
                stderr().print(one_line(f"{error}; trying again every {format_duration(interval)}"))
            failing = True
        else:
            failing = False
            if not answered:
                answered = True
                began()
            view.show(answer)
        if wait(interval.total_seconds()):
            return


class Screen:
    """A terminal that shows the last answer."""

    def __init__(self, console: Console, interval: timedelta, clock: Callable[[], datetime] = datetime.now) -> None:
        self._console = console
        self._interval = interval
        self._clock = clock

    def show(self, answer: Mapping[str, Any]) -> None:
        """Replace what is there by the answer and the time of day."""
        self._console.clear()
        title = f"every {format_duration(self._interval)}, {self._clock():%H:%M:%S}"
        self._console.print(Text(title, style="dim"))
        show_answer(answer, self._console)


class Changes:
    """The output of programs: the results that are new or changed since the answer before."""

    def __init__(self) -> None:
        self._shown: dict[tuple[int, str], Mapping[str, Any]] = {}
        self._total: int | None = None
        self._warnings: list[str] = []

    def show(self, answer: Mapping[str, Any]) -> None:
        """Print what is new or changed; a warning or a number of rows that is as before is not printed again."""
        for query, hit in self._new(answer):
            self._print_result(hit, query if "answers" in answer else None)
        if (total := answer.get("total")) != self._total:
            self._total = total
            self._print_total(answer)
        # Whoever reads a pipe waits for whole rounds.
        sys.stdout.flush()
        if (warnings := list(answer["warnings"])) != self._warnings:
            self._warnings = warnings
            for warning in warnings:
                stderr().print(one_line(f"warning: {warning}"))

    def _new(self, answer: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        before, self._shown = self._shown, {}
        for query, one in enumerate(answer.get("answers", [answer])):
            for hit in one["results"]:
                content = {name: value for name, value in hit.items() if name not in _NOT_COMPARED}
                self._shown[query, hit["id"]] = content
                if before.get((query, hit["id"])) != content:
                    yield query, hit

    def _print_result(self, hit: Mapping[str, Any], query: int | None) -> None:
        raise NotImplementedError

    def _print_total(self, answer: Mapping[str, Any]) -> None:
        raise NotImplementedError


class Lines(Changes):
    """For people: a result is its two lines."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    @override
    def _print_result(self, hit: Mapping[str, Any], query: int | None) -> None:
        show_result(hit, self._console)

    @override
    def _print_total(self, answer: Mapping[str, Any]) -> None:
        show_total(answer, self._console)


class JsonLines(Changes):
    """For programs: a result is one line of JSON, and so is the number of rows."""

    @override
    def _print_result(self, hit: Mapping[str, Any], query: int | None) -> None:
        _print_line(hit if query is None else {"query": query, **hit})

    @override
    def _print_total(self, answer: Mapping[str, Any]) -> None:
        _print_line({"total": answer["total"]})


def _print_line(value: Mapping[str, Any]) -> None:
    sys.stdout.write(printable(json.dumps(value, ensure_ascii=False)) + "\n")
