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

from tests.chaos.injection import Switches
from tests.chaos.profile import CHUNKINGS, Group, settings_of
from tests.chaos.proxy import Fault, FaultProxy
from tests.support.oracle.observed import Log

_UNREACHABLE = 3
_LAST = re.compile(r"([\w.]+)/(\d+)/\d+-(\d+)\b")
"""In the positions of a batch: topic, Kafka partition and the last offset of a range."""


@dataclass
class Slot:
    """A place for one worker of a group, with proxies of its own to Kafka and to Milvus."""

    number: int
    group: Group
    kafka: FaultProxy
    milvus: FaultProxy
    skew_s: float = 0.0
    """By which the wall clock of its workers is always wrong."""
    process: subprocess.Popen[bytes] | None = None
    frozen: bool = False
    starts: int = 0

    @property
    def place(self) -> str:
        """The name under which faults inside the process find it."""
        return f"worker-{self.number}"

    @property
    def name(self) -> str:
        """Of the worker that runs here, or ran here last; its log has this name."""
        return f"{self.place}-{self.starts}"

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
    switches: Switches
    peak_rss: int = 0
    unexpected: list[str] = field(default_factory=list)
    """Workers that ended though nobody ended them."""
    chunking: int = 0
    """Which of the chunkings the next worker of an upsert group starts with."""

    def of(self, group: Group) -> list[Slot]:
        """The slots of one group."""
        return [slot for slot in self.slots if slot.group is group]

    def start(self, slot: Slot, *options: str) -> None:
        """Start a worker in an empty slot."""
        slot.starts += 1
        with (self.folder / f"{slot.name}.log").open("wb") as log:
            slot.process = subprocess.Popen(
                self.command(slot.place, "ingest", "-c", str(self.configure(slot)), *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        slot.frozen = False

    def command(self, name: str, *arguments: str) -> list[str]:
        """The product's command line in a process that the faults reach under this name."""
        return [sys.executable, "-m", "tests.chaos.worker", str(self.switches.folder), name, *arguments]

    def configure(self, slot: Slot) -> Path:
        """The configuration with which the next worker of a slot starts."""
        settings = self.settings(slot.group, slot.kafka.port, slot.milvus.port)
        config = self.folder / f"{slot.name}.yaml"
        config.write_text(yaml.safe_dump(settings))
        return config

    def settings(self, group: Group, kafka_port: int, milvus_port: int) -> dict[str, Any]:
        """The settings of a group with its servers at these ports."""
        settings = settings_of(group)
        settings["kafka"]["bootstrap_servers"] = f"127.0.0.1:{kafka_port}"
        settings["milvus"]["uri"] = f"http://127.0.0.1:{milvus_port}"
        if not group.contract.append:
            settings["chunking"] = dict(CHUNKINGS[self.chunking % len(CHUNKINGS)])
        return settings

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

        An end that nobody asked for is unexpected; but not that a worker which cannot reach a server when it starts
        ends with exit code 3 (a supervisor would start it again).
        """
        missing = []
        for slot in self.slots:
            if slot.process is None or (code := slot.process.poll()) is None:
                continue
            slot.process = None
            # One that must leave while Python still imports, or a server is connected, ends by the signal: nothing had
            # begun.
            if slot.number not in leaving or code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
                missing.append(slot)
                if code != _UNREACHABLE or self._has_begun(slot):
                    self.unexpected.append(f"{slot.name} ended with exit code {code}: {self._last_words(slot)}")
            leaving.discard(slot.number)
        return missing

    def _has_begun(self, slot: Slot) -> bool:
        return b'"kafka.assigned"' in (self.folder / f"{slot.name}.log").read_bytes()

    def _last_words(self, slot: Slot) -> str:
        lines = (self.folder / f"{slot.name}.log").read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.startswith("milvus-stream:")), "")[:400]

    def written(self, group: Group) -> dict[Log, int]:
        """By Kafka partition: after which offset the workers that run now have written everything they were given."""
        ends: dict[Log, int] = {}
        for slot in self.of(group):
            if slot.running:
                for line in (self.folder / f"{slot.name}.log").read_text(errors="replace").splitlines():
                    if '"batch.written"' in line:
                        for topic, partition, last in _LAST.findall(line):
                            log = topic, int(partition)
                            ends[log] = max(ends.get(log, 0), int(last) + 1)
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
