"""Commands that run beside the workers: replays, audits and repairs."""

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import yaml

from tests.chaos.profile import Group
from tests.chaos.workers import Workers

_ALLOWED: Mapping[str, frozenset[int]] = {
    # 1: another job holds the collection. 2: its documents would change while workers run, or workers run beside a
    # repair. 3: a server is away.
    "replay": frozenset({0, 1, 2, 3}),
    "audit": frozenset({0, 3, 5}),
    "repair": frozenset({0, 1, 2, 3, 5}),
}


@dataclass(frozen=True, slots=True)
class _Job:
    kind: str
    name: str
    process: subprocess.Popen[bytes]


class Jobs:
    """Starts them straight at the servers, and sees how they end."""

    def __init__(self, workers: Workers, kafka_port: int, milvus_port: int) -> None:
        self._workers = workers
        self._ports = kafka_port, milvus_port
        self._running: list[_Job] = []
        self._began = datetime.now(UTC)
        self._started = 0
        self.ended: Counter[str] = Counter()
        """By kind and exit code."""
        self.unexpected: list[str] = []
        self.cut_off = False
        """Whether a repair or a replay did not come to its end."""

    def replay(self, group: Group) -> None:
        """Replay everything that was produced since the run began."""
        times = [moment.isoformat() for moment in (self._began, datetime.now(UTC))]
        self._start("replay", group, "replay", "--from", times[0], "--to", times[1])

    def audit(self, group: Group) -> None:
        """Compare what is stored while workers run."""
        self._start("audit", group, "audit", "--json")

    def repair(self, group: Group) -> None:
        """Compare, and write what is wrong."""
        self._start("repair", group, "audit", "--repair", "--json")

    def report(self, group: Group, *options: str) -> dict[str, Any]:
        """Wait for an audit of what no worker writes any more; its report."""
        arguments = self._command("audit", group, "audit", "--json", "--limit", "100000", *options)
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 5):
            raise RuntimeError(f"audit ended with exit code {done.returncode}: {done.stderr[-400:]}")
        return dict(json.loads(done.stdout))

    def reap(self) -> None:
        """See which have ended, and how."""
        for job in self._running.copy():
            if (code := job.process.poll()) is not None:
                self._running.remove(job)
                self.ended[f"{job.kind}: {code}"] += 1
                self.cut_off = self.cut_off or (job.kind != "audit" and code not in (0, 5))
                if code not in _ALLOWED[job.kind] or (
                    code == 1 and "holds the collection" not in self._last_words(job)
                ):
                    self.unexpected.append(f"{job.name} ended with exit code {code}: {self._last_words(job)}")

    def kill(self) -> None:
        """kill -9 of all of them."""
        for job in self._running:
            job.process.kill()
            job.process.wait()
            self.ended[f"{job.kind}: killed"] += 1
            self.cut_off = self.cut_off or job.kind != "audit"
        self._running.clear()

    def finish(self, within: float) -> None:
        """Wait for those that run; kill those that do not end."""
        for job in self._running:
            try:
                job.process.wait(within)
            except subprocess.TimeoutExpired:
                self.unexpected.append(f"{job.name} did not end")
                job.process.send_signal(signal.SIGKILL)
                job.process.wait()
        self.reap()

    def _start(self, kind: str, group: Group, *arguments: str) -> None:
        command = self._command(kind, group, *arguments)
        name = f"{kind}-{self._started}"
        with (self._workers.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self._running.append(_Job(kind, name, process))

    def _command(self, kind: str, group: Group, *arguments: str) -> list[str]:
        self._started += 1
        config = self._workers.folder / f"{kind}-{self._started}.yaml"
        config.write_text(yaml.safe_dump(self._workers.settings(group, *self._ports)))
        return self._workers.command(kind, *arguments, "-c", str(config))

    def _last_words(self, job: _Job) -> str:
        return (self._workers.folder / f"{job.name}.log").read_text(errors="replace").strip()[-400:]
