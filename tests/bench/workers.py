"""An ingest worker and a query worker to measure, and what clients see of them."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import psutil
import yaml

from consumers.kafka import KafkaSettings, create_topic
from tests.bench.report import say
from tests.bench.stage import KAFKA_PARTITIONS, Stage
from tests.support.processes import Running, running
from tests.support.rigs.load import Load
from tests.support.rigs.publisher import publisher
from tests.support.waiting import eventually

DOCUMENTS = 2000


@dataclass(slots=True)
class Figures:
    """What one group of clients saw."""

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    ok_s: list[float] = field(default_factory=list)

    def row(self, name: str) -> dict[str, Any]:
        """For the table."""
        p50, p99 = (1000 * float(np.percentile(self.ok_s or [np.nan], share)) for share in (50, 99))
        refused = self.statuses[429]
        other = sum(self.statuses.values()) - refused - self.statuses[200]
        ok_per_s = len(self.ok_s) / self.seconds
        return {"": name, "ok/s": ok_per_s, "p50 ms": p50, "p99 ms": p99, "429": refused, "other": other}


@dataclass(frozen=True, slots=True)
class Workers:
    """An ingest worker and a query worker on one topic and collection."""

    ingest: Running
    serve: Running
    topic: str
    group: str
    collection: str
    port: int
    """Of the query worker."""

    def use(self, name: str) -> dict[str, float]:
        """Memory, descriptors and threads of one of them now."""
        process = psutil.Process((self.ingest if name == "ingest" else self.serve).process.pid)
        memory = process.memory_full_info()
        mib = 2**20
        counts = {"descriptors": process.num_fds(), "threads": process.num_threads()}
        return {"RSS MiB": memory.rss / mib, "USS MiB": memory.uss / mib, **counts}

    def end(self) -> dict[str, tuple[int, float]]:
        """SIGTERM to both; exit codes and seconds."""
        found = {}
        for name, worker in (("serve", self.serve), ("ingest", self.ingest)):
            started = time.monotonic()
            found[name] = (worker.end(signal.SIGTERM, within=120), time.monotonic() - started)
        return found


def request(limit: int = 10, text: str = "harbour lantern copper") -> bytes:
    """A search as it goes over the wire."""
    body = json.dumps({"query": text, "limit": limit}).encode()
    head = "POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(body)}\r\n\r\n".encode() + body


@contextmanager
def workers(made: Stage, model: str) -> Iterator[Workers]:
    """Both workers with their defaults, and some thousand documents already stored."""
    with made.names() as names:
        job = names.job(names.topic(), 0)
        topic = job["topic"]
        create_topic(KafkaSettings(made.kafka, (topic,), topic), topic, partitions=KAFKA_PARTITIONS)
        settings = {
            "kafka": {
                "bootstrap_servers": made.kafka,
                "topics": [topic],
                "group_id": job["group"],
                "dead_letter_topic": f"{topic}.dlq",
            },
            "milvus": {"uri": made.milvus, "collection": job["collection"]},
            "embedding": {"model": model},
            "query": {"port": 0},
            "telemetry": {"port": 0, "log_format": "json"},
        }
        config = made.folder / "workers.yaml"
        config.write_text(yaml.safe_dump(settings))
        with publisher(made.kafka, topic) as sender:
            sender.publish(Load(1, KAFKA_PARTITIONS).next_records(DOCUMENTS))
            sender.flush(60)
        command = ["-m", "consumers.cli"]
        options = ["-c", str(config)]
        with (
            running([*command, "ingest", *options], made.folder / "ingest.log") as ingest,
            running([*command, "serve", *options], made.folder / "serve.log") as serve,
        ):
            port = int(listening(serve)["port"])
            made_workers = Workers(ingest, serve, topic, job["group"], job["collection"], port)
            say("waiting until the first documents are stored")
            eventually(lambda: finished(ingest) >= DOCUMENTS, within=180, every=0.5)
            yield made_workers


def listening(worker: Running) -> dict[str, Any]:
    """Wait until a worker listens, and return the line that says where."""
    eventually(lambda: ".listening" in worker.errors(), within=120, what=f"a worker's port: {worker.errors()[-2000:]}")
    line = next(line for line in worker.errors().splitlines() if ".listening" in line)
    found: dict[str, Any] = json.loads(line)
    return found


def finished(ingest: Running) -> float:
    """Records that the ingest worker has finished."""
    lines = httpx.get(f"{listening(ingest)['address']}/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("ingest_records_total{"))
