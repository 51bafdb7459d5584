"""The ingest workers under test: processes that are killed, stopped, added and removed."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.chaos.proxy import Fault, FaultProxy

_UNREACHABLE = 3
_LAST = re.compile(r"/(\d+)/\d+-(\d+)\b")
"""In the positions of a batch: a Kafka partition and the last offset of a range."""


@dataclass
class Slot:
    """A place for one worker, with proxies of its own to Kafka and to Milvus."""

    number: int
    kafka: FaultProxy
    milvus: FaultProxy
    process: subprocess.Popen[bytes] | None = None
    frozen: bool = False
    starts: int = 0

    @property
    def name(self) -> str:
        """Of the worker that runs here, or ran here last; its log has this name."""
        return f"worker-{self.number}-{self.starts}"

    @property
    def running(self) -> bool:
        """Whether a worker runs here, frozen or not."""
        return self.process is not None and self.process.poll() is None

    def inject(self, link: str, fault: Fault) -> None:
        """Let the link to `kafka` or `milvus` misbehave."""
        (self.kafka if link == "kafka" else self.milvus).inject(fault)

    def heal(self) -> None:
        """Both links forward everything again."""
        self.kafka.heal()
        self.milvus.heal()


@dataclass
class Workers:
    """Every slot, and what is known of the processes in them."""

    slots: list[Slot]
    folder: Path
    settings: dict[str, Any]
    refusing: Path
    """While this file is there, flushes are refused."""
    peak_rss: int = 0
    unexpected: list[str] = field(default_factory=list)
    """Workers that ended though nobody ended them."""

    def start(self, slot: Slot) -> None:
        """Start a worker in an empty slot."""
        slot.starts += 1
        settings = {
            **self.settings,
            "kafka": {**self.settings["kafka"], "bootstrap_servers": f"127.0.0.1:{slot.kafka.port}"},
            "milvus": {**self.settings["milvus"], "uri": f"http://127.0.0.1:{slot.milvus.port}"},
        }
        config = self.folder / f"{slot.name}.yaml"
        config.write_text(yaml.safe_dump(settings))
        with (self.folder / f"{slot.name}.log").open("wb") as log:
            slot.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker", str(self.refusing), "ingest", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        slot.frozen = False

    def kill(self, slot: Slot) -> None:
        """kill -9."""
        if slot.process is not None:
            slot.process.kill()
            slot.process.wait()
            slot.process = None
            slot.frozen = False

    def freeze(self, slot: Slot) -> None:
        """SIGSTOP: the process stands still in the middle of whatever it does."""
        if slot.running and slot.process is not None:
            slot.process.send_signal(signal.SIGSTOP)
            slot.frozen = True

    def thaw(self, slot: Slot) -> None:
        """SIGCONT: it goes on as if no time had passed."""
        if slot.frozen and slot.process is not None:
            slot.process.send_signal(signal.SIGCONT)
        slot.frozen = False

    def remove(self, slot: Slot) -> None:
        """SIGTERM; `reap` finds it ended."""
        if slot.running and slot.process is not None:
            self.thaw(slot)
            slot.process.send_signal(signal.SIGTERM)

    def reap(self, leaving: set[int]) -> list[Slot]:
        """Clear the slots whose worker has ended. Returns those in which one is missing: it was not in `leaving`.

        What nobody asked for is told as unexpected; not, that a worker which cannot reach a server when it starts ends
        with exit code 3 (a supervisor would start it again).
        """
        missing = []
        for slot in self.slots:
            if slot.process is None or (code := slot.process.poll()) is None:
                continue
            slot.process = None
            # One that is asked to leave while Python still imports ends by the signal: nothing had begun.
            if slot.number not in leaving or code not in (0, -signal.SIGTERM):
                missing.append(slot)
                if code != _UNREACHABLE or self._has_begun(slot):
                    self.unexpected.append(f"{slot.name} ended with exit code {code}")
            leaving.discard(slot.number)
        return missing

    def _has_begun(self, slot: Slot) -> bool:
        return b'"kafka.assigned"' in (self.folder / f"{slot.name}.log").read_bytes()

    def written(self) -> dict[int, int]:
        """By Kafka partition: after which offset the workers that run now have written everything they were given."""
        ends: dict[int, int] = {}
        for slot in self.slots:
            if slot.running:
                for line in (self.folder / f"{slot.name}.log").read_text(errors="replace").splitlines():
                    if '"batch.written"' in line:
                        for partition, last in _LAST.findall(line):
                            ends[int(partition)] = max(ends.get(int(partition), 0), int(last) + 1)
        return ends

    def measure(self) -> None:
        """Remember the most memory a worker has used."""
        for slot in self.slots:
            if slot.running and slot.process is not None:
                try:
                    self.peak_rss = max(self.peak_rss, psutil.Process(slot.process.pid).memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    def end(self) -> None:
        """Kill whatever runs, and the proxies."""
        for slot in self.slots:
            self.kill(slot)
            slot.kafka.close()
            slot.milvus.close()
