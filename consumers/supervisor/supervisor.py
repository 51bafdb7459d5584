"""The supervisor of several worker processes: starts them, starts them again, and stops them with one deadline."""

import queue
import signal
import time
from collections.abc import Callable

import structlog

from consumers.supervisor.restarts import code_after_stop, exit_code, outcome
from consumers.supervisor.worker import Command, Worker
from pipeline.errors import MilvusStreamError

ROUND_S = 1.0
"""Longest wait between two rounds of the loop."""
STALLED_S = 60.0
"""A loop without a round for this long hangs."""
LEAVE_S = 10.0
"""What a worker has after its shutdown deadline, to end its last call and leave the group."""

log = structlog.get_logger(__name__)


class WorkerRefused(MilvusStreamError):
    """A worker ended in a way that no restart cures; `exit_code` is the worker's."""

    def __init__(self, worker: Worker, code: int) -> None:
        super().__init__(
            f"worker {worker.name} ended with exit code {code}, which starting it again would repeat; all workers are "
            "stopped. Its own message is above"
        )
        self.exit_code = code


class Supervisor:
    """Runs the workers until they are stopped, have caught up, or one of them ends in a way that no restart cures.

    Call `run` on the main thread: the kernel kills the workers when the thread that started them ends.
    """

    def __init__(
        self,
        count: int,
        command: Command,
        *,
        shutdown_s: float,
        until_caught_up: bool = False,
        capture: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._events: queue.SimpleQueue[int | tuple[Worker, int, bytes]] = queue.SimpleQueue()
        self._shutdown_s = shutdown_s
        self._until_caught_up = until_caught_up
        self._clock = clock
        self.workers = [
            Worker(number, count, command, self._on_end, capture=capture, clock=clock) for number in range(count)
        ]
        self.outputs: list[bytes] = []
        """Standard output of the processes that ended with 0."""
        self._deadline: float | None = None
        """Set once all are to stop: when those left are killed."""
        self._code = 0
        self._refused: WorkerRefused | None = None
        self._last_round = clock()

    def stop(self, number: int) -> None:
        """Stop all workers; a second call kills them. Made for signal handlers: `number` is the signal."""
        self._events.put(number)

    def run(self) -> int:
        """Run to the end; returns the exit code.

        0: done, or stopped and all workers ended well in time. Else that of the first worker that did not, 1 where one
        had to be killed, 128 + signal after a second signal. Raises WorkerRefused.
        """
        try:
            while not self._over():
                self._last_round = self._clock()
                self._take_events()
                self._start_due()
                self._kill_late()
        finally:
            self._kill()
        if self._refused is not None:
            raise self._refused
        return self._code

    def _over(self) -> bool:
        if self._deadline is not None:
            return all(worker.run is None for worker in self.workers)
        return all(worker.finished for worker in self.workers)

    def _take_events(self) -> None:
        moments = [worker.due for worker in self.workers if worker.due is not None]
        moments += [self._deadline] if self._deadline is not None else []
        wait_s = min([ROUND_S, *(moment - self._clock() for moment in moments)])
        try:
            event = self._events.get(timeout=max(0.0, wait_s))
        except queue.Empty:
            return
        if isinstance(event, int):
            self._on_signal(event)
        else:
            self._after_end(*event)

    def _on_signal(self, number: int) -> None:
        if self._deadline is None:
            log.info("supervisor.stopping", signal=signal.Signals(number).name, within_s=self._shutdown_s)
            self._stop_all()
            return
        self._code = 128 + number
        self._deadline = self._clock()

    def _stop_all(self) -> None:
        self._deadline = self._clock() + self._shutdown_s + LEAVE_S
        for worker in self.workers:
            worker.due = None
            worker.send(signal.SIGTERM)

    def _on_end(self, worker: Worker, code: int, output: bytes) -> None:
        self._events.put((worker, code, output))

    def _after_end(self, worker: Worker, code: int, output: bytes) -> None:
        worker.ended(code)
        if code == 0:
            self.outputs.append(output)
        if self._deadline is not None:
            worker.due = None
            self._code = self._code or code_after_stop(code)
            return
        match outcome(code, until_caught_up=self._until_caught_up):
            case "finished":
                worker.finished, worker.due = True, None
            case "final":
                self._refused = WorkerRefused(worker, exit_code(code))
                self._stop_all()
            case "restart" if worker.due is not None:
                in_s = round(worker.due - self._clock(), 1)
                log.warning("worker.restarting", worker=worker.name, code=code, in_s=in_s)

    def _start_due(self) -> None:
        for worker in self.workers:
            if worker.due is not None and worker.due <= self._clock():
                worker.start()

    def _kill_late(self) -> None:
        if self._deadline is not None and self._clock() >= self._deadline:
            late = [worker.name for worker in self.workers if worker.run is not None]
            if late:
                log.warning("supervisor.killed", workers=late, what="they are read again by the next start")
                self._code = self._code or 1
            self._kill()

    def _kill(self) -> None:
        for worker in self.workers:
            worker.send(signal.SIGKILL)
        for worker in self.workers:
            if worker.run is not None:
                worker.run.process.wait()
                worker.run = None

    def stalled(self) -> float:
        """For how many seconds the loop has hung; 0 while it turns."""
        age = self._clock() - self._last_round
        return age if age > STALLED_S else 0.0
