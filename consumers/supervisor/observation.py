"""Probes and metrics of all workers as one: each answer is put together from those of the workers."""

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Self

import orjson
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from consumers.supervisor.exposition import LABEL, merge
from consumers.supervisor.supervisor import Supervisor
from consumers.supervisor.worker import GONE_LIMIT_S, Worker

ANSWER_S = 1.5
"""Time limit of a request to a worker; less than what `/readyz` has as a whole."""
CHECK_S = 10.0
"""Between two liveness checks of the workers."""
HANG_S = 120.0
"""A worker whose `/healthz` has not been green for this long hangs. Longer than its imports take, before which it
answers nothing."""

_Answer = tuple[int, bytes]


class SupervisorMetrics:
    """What only the supervisor knows, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.up = Gauge("ingest_worker_up", "1 while the worker's process runs.", (LABEL,), registry=self.registry)
        self.starts = Gauge(
            "ingest_worker_starts",
            "Processes started for the worker; more than 1: restarts.",
            (LABEL,),
            registry=self.registry,
        )


class Observation:
    """Answers probes and scrapes for a supervisor and its workers; as a block it checks their liveness."""

    def __init__(self, supervisor: Supervisor, clock: Callable[[], float] = time.monotonic) -> None:
        self._supervisor = supervisor
        self._clock = clock
        self._metrics = SupervisorMetrics()
        self._green: dict[str, float] = {}
        """When each worker's liveness probe was last green."""
        self._requests = ThreadPoolExecutor(2 * len(supervisor.workers) + 2, thread_name_prefix="worker probes")
        self._closed = threading.Event()
        self._checks = threading.Thread(target=self._check, name="liveness of workers", daemon=True)

    def __enter__(self) -> Self:
        self._checks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._requests.shutdown(wait=False, cancel_futures=True)

    def alive(self) -> Mapping[str, str]:
        """Problems for the liveness probe: the supervisor or a worker hangs, or a worker does not come back."""
        problems = {}
        if stalled := self._supervisor.stalled():
            problems["supervisor"] = f"its loop has not come round for {stalled:.0f} s"
        for worker in self._supervisor.workers:
            run, gone_s = worker.run, worker.gone_s()
            if gone_s > GONE_LIMIT_S:
                problems[_named(worker)] = f"{_last_end(worker)}; it has not run for long for {gone_s:.0f} s"
            elif run is not None:
                silent_s = self._clock() - max(run.started, self._green.get(worker.name, run.started))
                if silent_s > HANG_S:
                    problems[_named(worker)] = f"its liveness probe has not been green for {silent_s:.0f} s"
        return problems

    def ready(self) -> Mapping[str, str]:
        """Problems for the readiness probe: those of each worker, and workers that do not run."""
        problems: dict[str, str] = {}
        for worker, answer in self._answers("/readyz").items():
            if answer is not None and answer[0] == http.client.OK:
                continue
            if worker.run is None:
                problems[_named(worker)] = f"{_last_end(worker)}; it is started again"
            elif answer is None:
                problems[_named(worker)] = "it is starting, or does not answer"
            else:
                named = orjson.loads(answer[1])["problems"]
                problems |= {f"{_named(worker)}: {name}": str(why) for name, why in named.items()}
        return problems

    def metrics(self) -> bytes:
        """The metrics of all workers that answer, and of the supervisor."""
        for worker in self._supervisor.workers:
            self._metrics.up.labels(worker.name).set(worker.run is not None)
            self._metrics.starts.labels(worker.name).set(worker.starts)
        texts = {
            worker.name: answer[1].decode()
            for worker, answer in self._answers("/metrics").items()
            if answer is not None and answer[0] == http.client.OK
        }
        return generate_latest(self._metrics.registry) + merge(texts).encode()

    def _check(self) -> None:
        while not self._closed.wait(CHECK_S):
            for worker, answer in self._answers("/healthz").items():
                if answer is not None and answer[0] == http.client.OK:
                    self._green[worker.name] = self._clock()

    def _answers(self, path: str) -> dict[Worker, _Answer | None]:
        """What each worker that has not finished answers; None where it does not."""
        workers = [worker for worker in self._supervisor.workers if not worker.finished]
        try:
            return dict(zip(workers, self._requests.map(partial(_get, path=path), workers), strict=True))
        except RuntimeError:  # closed: the process ends
            return dict.fromkeys(workers)


def _get(worker: Worker, path: str) -> _Answer | None:
    """One answer of a worker. A plain connection: no proxy of the environment comes between."""
    run = worker.run
    if run is None:
        return None
    connection = http.client.HTTPConnection("127.0.0.1", run.port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _named(worker: Worker) -> str:
    return f"worker {worker.name}"


def _last_end(worker: Worker) -> str:
    return "it is not started yet" if worker.last_code is None else f"it ended with exit code {worker.last_code}"
