"""The benchmark's side of its contenders."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Contender:
    """A contender's process; see `tests.bench.contender`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def prepare(self, job: Mapping[str, Any]) -> None:
        """Give it a job; returns when it is ready to begin."""
        self._say(job)
        self._hear()

    def go(self) -> dict[str, Any]:
        """Begin; returns its figures when it has ended."""
        self.begin()
        return self.finish()

    def begin(self) -> None:
        """Give the word."""
        self._say({"go": True})

    def finish(self) -> dict[str, Any]:
        """Its figures, when it has ended."""
        return self._hear()

    def _say(self, value: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise RuntimeError(f"a contender ended; the end of {self._log}:\n{self._log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def contender(module: str, arguments: Mapping[str, Any], folder: Path) -> Iterator[Contender]:
    """Start `tests.bench.<module>`, which loads at once; ended with the block."""
    log = folder / f"{module}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.bench.{module}", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    with process:
        try:
            yield Contender(process, log)
        except BaseException:
            process.kill()
            raise
