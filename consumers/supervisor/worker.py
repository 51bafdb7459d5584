"""One worker under a supervisor: its process, its ends and its next start."""

import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from consumers.supervisor.restarts import BACKOFF, STEADY_S, Pauses
from consumers.supervisor.supervised import Supervised

GONE_LIMIT_S = BACKOFF.cap_s + STEADY_S
"""Longest time without a steady run that is no problem yet: the longest pause, and the run that ends it."""

Command = Callable[[Supervised, bool], Sequence[str]]
"""The command line of a worker; the bool says whether it is its first start."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """A process of a worker."""

    process: subprocess.Popen[bytes]
    port: int
    """Of its probes and metrics, on loopback."""
    started: float


class Worker:
    """Starts one process at a time. Methods are for the supervisor's thread; other threads may read."""

    def __init__(
        self,
        number: int,
        count: int,
        command: Command,
        on_end: Callable[["Worker", int, bytes], None],
        *,
        capture: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_end` gets each end: exit code, and with `capture` standard output; any thread may call it."""
        self.number = number
        self.name = str(number)
        self._count = count
        self._command = command
        self._on_end = on_end
        self._capture = capture
        self._clock = clock
        self._pauses = Pauses()
        self.run: Run | None = None
        self.starts = 0
        self.due: float | None = clock()
        """When it is to be started; None while it runs, and when it is not to be started again."""
        self.finished = False
        self.last_code: int | None = None
        self._gone_since: float | None = None

    def start(self) -> None:
        """Start a process with a socket for its probes; where the system has no room for one, later."""
        try:
            self._start()
        except OSError as error:
            now = self._clock()
            self._gone_since = now if self._gone_since is None else self._gone_since
            self.due = now + BACKOFF.cap_s
            log.warning("worker.not_started", worker=self.name, why=error.strerror or str(error), in_s=BACKOFF.cap_s)

    def _start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            supervised = Supervised(self.number, self._count, listener.fileno(), os.getpid())
            process = subprocess.Popen(  # noqa: S603 - this program itself
                list(self._command(supervised, self.starts == 0)),
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._capture else None,
                start_new_session=True,  # Ctrl-C goes to the supervisor alone, which passes one signal on
            )
            self.run = Run(process, listener.getsockname()[1], self._clock())
        self.due = None
        self.starts += 1
        threading.Thread(target=self._wait, args=(process,), name=f"worker {self.name}", daemon=True).start()
        log.info("worker.started", worker=self.name, pid=process.pid)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        output, _ = process.communicate()
        self._on_end(self, process.returncode, output or b"")

    def ended(self, code: int) -> None:
        """Note that the process has ended."""
        assert self.run is not None, "a worker that does not run cannot end"  # noqa: S101
        self.last_code = code
        now = self._clock()
        if self._gone_since is None or now - self.run.started >= STEADY_S:
            self._gone_since = now
        ran_s = now - self.run.started
        self.run = None
        log.info("worker.ended", worker=self.name, code=code, ran_s=round(ran_s, 1))
        self.due = now + self._pauses.after(ran_s, random.random())  # noqa: S311 - jitter

    def gone_s(self) -> float:
        """How long it has not run steadily; 0 while it does, and where it has finished."""
        run, since, now = self.run, self._gone_since, self._clock()
        steady = run is not None and now - run.started >= STEADY_S
        return 0.0 if self.finished or since is None or steady else now - since

    def send(self, number: int) -> None:
        """Send a signal where it runs."""
        if self.run is not None:
            self.run.process.send_signal(number)
