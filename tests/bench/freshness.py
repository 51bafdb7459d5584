"""Freshness: documents published steadily at half of what a worker can do, and when a search first finds them."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console

from consumers.kafka import KafkaSettings, Publisher
from pipeline.errors import NotFound, Unavailable
from pipeline.store import MilvusApi, VectorSearch, connect
from tests.bench.corpus import MARKERS, BenchDocument, value
from tests.bench.report import Target, say, show_table
from tests.bench.stage import Stage

SEARCH_EVERY_S = 0.02
WARM_UP_S = 25.0
"""The first documents of a run are not counted: partitions are made, and for its first 20 s a worker reads the ledger
strongly, which costs each batch 0.2 to 0.3 s on Milvus 2.3.5."""
LONGEST_S = 60.0
"""A document not found so long after the last one was published is counted as lost."""
WANTED_P50_S = 1.5


@dataclass(slots=True)
class _Sampled:
    """The documents that are looked for, by name; shared by the publisher and the searcher."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    pending: dict[str, tuple[float, NDArray[np.float32]]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


def measure(stage: Stage, drain_rate: float, seconds: float) -> dict[str, Any]:
    """Publish at half of `drain_rate` for `seconds` to a running worker, and search for every n-th document."""
    documents = stage.documents()
    short = [document for document in documents if document.chunks == 1]
    markers = list(zip(short[-MARKERS:], np.load(stage.markers_file), strict=True))
    apart = {document.id for document, _ in markers}
    others = [document for document in documents if document.id not in apart]
    with stage.names() as names, closing(connect(stage.milvus)) as api:
        job = names.job(names.topic(), 0)
        stage.publish(job["topic"], [(b"warm-up", value(short[0], datetime.now(UTC), "#warm-up"))])
        with _worker(stage, job):
            say("waiting for the worker's first document")
            _until_stored(api, job["collection"])
            sampled = _Sampled()
            ended = threading.Event()
            searcher = threading.Thread(target=_search, args=(api, job["collection"], sampled, ended), daemon=True)
            searcher.start()
            rate = drain_rate / 2
            say(f"publishing {rate:.0f} documents/s for {seconds:.0f} s")
            schedule = list(_schedule(others, markers, rate, seconds))
            late_s = _publish(stage, job["topic"], schedule, sampled)
            deadline = time.monotonic() + LONGEST_S
            while sampled.pending and time.monotonic() < deadline and searcher.is_alive():
                time.sleep(0.1)
            ended.set()
            searcher.join()
    return {
        "published_per_s": rate,
        "seconds": seconds,
        "searched_for": len(sampled.seconds) + len(sampled.pending),
        "not_found": len(sampled.pending),
        "p50_s": float(np.percentile(sampled.seconds, 50)),
        "p99_s": float(np.percentile(sampled.seconds, 99)),
        "max_s": max(sampled.seconds),
        "publisher_late_s": late_s,
    }


@dataclass(frozen=True, slots=True)
class _Due:
    """A document to publish, when, and its vector where it is looked for."""

    after_s: float
    document: BenchDocument
    suffix: str
    vector: NDArray[np.float32] | None


def _schedule(
    others: Sequence[BenchDocument],
    markers: Sequence[tuple[BenchDocument, NDArray[np.float32]]],
    rate: float,
    seconds: float,
) -> Iterator[_Due]:
    count = int(rate * (seconds + WARM_UP_S))
    every = max(2, -(-count // len(markers)))
    fill, looked_for = cycle(others), iter(markers)
    for number in range(count):
        if number % every == 0 and number / rate >= WARM_UP_S:
            document, vector = next(looked_for)
            yield _Due(number / rate, document, "#marker", vector)
        else:
            yield _Due(number / rate, next(fill), f"#{number}", None)


def _publish(stage: Stage, topic: str, schedule: Sequence[_Due], sampled: _Sampled) -> float:
    """Send on a fixed schedule, whatever the worker does; returns the longest that a record was behind it.

    A document's time counts from when it was due, so that a late publisher does not flatter the result.
    """
    latest = 0.0
    with Publisher(KafkaSettings(stage.kafka, (topic,), topic)) as publisher:
        start = time.monotonic()
        for item in schedule:
            due = start + item.after_s
            time.sleep(max(0.0, due - time.monotonic()))
            latest = max(latest, time.monotonic() - due)
            name = item.document.id + item.suffix
            if item.vector is not None:
                with sampled.lock:
                    sampled.pending[name] = (due, item.vector)
            publisher.send(topic, name.encode(), value(item.document, datetime.now(UTC), item.suffix))
    return latest


def _search(api: MilvusApi, collection: str, sampled: _Sampled, ended: threading.Event) -> None:
    """Search for every pending document by its own vector until it is among the nearest."""
    while not ended.wait(SEARCH_EVERY_S):
        with sampled.lock:
            pending = dict(sampled.pending)
        if not pending:
            continue
        vectors = np.stack([vector for _, vector in pending.values()])
        answers = api.search(collection, VectorSearch(vectors, 5, fields=["doc_id"]))
        now = time.monotonic()
        found = {
            name: now - pending[name][0]
            for name, hits in zip(pending, answers, strict=True)
            if any(hit.fields["doc_id"] == name for hit in hits)
        }
        with sampled.lock:
            sampled.seconds += found.values()
            for name in found:
                del sampled.pending[name]


def _until_stored(api: MilvusApi, collection: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if api.query(collection, "chunk >= 0", ["doc_id"], limit=1):
                return
        except (NotFound, Unavailable):  # the worker has not made it yet
            pass
        if time.monotonic() > deadline:
            raise RuntimeError("the worker has stored nothing within 120 s")
        time.sleep(0.2)


@contextmanager
def _worker(stage: Stage, job: Mapping[str, Any]) -> Iterator[None]:
    """`milvus-stream ingest` with its defaults as a process of its own."""
    settings = {
        "kafka": {
            "bootstrap_servers": stage.kafka,
            "topics": [job["topic"]],
            "group_id": job["group"],
            "dead_letter_topic": f"{job['topic']}.dlq",
        },
        "milvus": {"uri": stage.milvus, "collection": job["collection"]},
        "telemetry": {"port": 0},
    }
    path = stage.folder / "freshness.yaml"
    path.write_text(yaml.safe_dump(settings))
    log = stage.folder / "freshness.log"
    with log.open("w") as errors:
        command = [sys.executable, "-m", "consumers.cli", "ingest", "-c", str(path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the worker ended: {log.read_text()[-3000:]}")
    finally:
        process.terminate()
        process.wait(60)


def targets(found: Mapping[str, Any]) -> list[Target]:
    """What the issue asks for; every document must be found."""
    return [
        Target("freshness p50 in s at half load", found["p50_s"], WANTED_P50_S, at_most=True),
        Target("documents published and not found", found["not_found"], 0, at_most=True),
    ]


def show(out: Console, found: Mapping[str, Any]) -> None:
    """Percentiles."""
    row = {
        "documents/s": found["published_per_s"],
        "searched for": found["searched_for"],
        "p50 s": found["p50_s"],
        "p99 s": found["p99_s"],
        "longest s": found["max_s"],
        "publisher late by at most s": found["publisher_late_s"],
    }
    show_table(out, "freshness at half load: published -> first found by a search", [row])
