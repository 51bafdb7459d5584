"""Child processes of a test: what they print, and what is left of them."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil

from tests.support.waiting import eventually

_SHOWN_CHARACTERS = 20_000


class Running:
    """A command under test: its standard output line by line, its descendants, its end."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self._errors = errors
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put("")

    def json_line(self, within: float) -> dict[str, Any]:
        """The next line on standard output as JSON; fails with the error output when there is none."""
        line = self._lines.get(timeout=within)
        assert line, f"ended without a line on stdout: {self.errors()}"
        value: dict[str, Any] = json.loads(line)
        return value

    def lines(self) -> list[str]:
        """The lines on standard output that were not taken yet, once it has ended."""
        return list(iter(lambda: self._lines.get(timeout=30), ""))

    def errors(self) -> str:
        """Everything on standard error so far."""
        return self._errors.read_text()

    def descendants(self) -> list[psutil.Process]:
        """The processes it started, and those they started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: signal.Signals, within: float = 30.0) -> int:
        """Send a signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(within)


@contextmanager
def running(arguments: list[str], errors: Path, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run `python arguments`, standard error to a file; killed with its descendants at the end if still there.

    `environment` is what it finds beside this process's own. One that does not end in time fails the test with its
    log and the stacks of its threads.
    """
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        yield Running(process, errors)
    except subprocess.TimeoutExpired as error:
        process.send_signal(signal.SIGABRT)  # the fault handler writes the stacks
        process.wait(30)
        raise AssertionError(f"{error}\n{errors.read_text()[-_SHOWN_CHARACTERS:]}") from error
    finally:
        if process.poll() is None:
            left = psutil.Process(process.pid).children(recursive=True)
            for each in (psutil.Process(process.pid), *left):
                each.kill()
            process.wait()


def expect_gone(processes: list[psutil.Process], within: float = 20.0) -> None:
    """Fail unless all of them end in time (psutil tells a process from a later one with the same number)."""
    assert processes, "there is no process to look for"
    eventually(lambda: not [p for p in processes if _alive(p)], within=within, what=f"the end of {processes}")


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
