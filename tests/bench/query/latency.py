"""How long a search takes: above its parts, beside ingest, by meaning and words together, and after a write."""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaProducer
from pymilvus import MilvusClient

from consumers.kafka import GroupOffsets, KafkaSettings
from pipeline.embedding import Embedder
from tests.bench.query.clients import p50_ms, p99_ms, search_client
from tests.bench.report import Target, say
from tests.bench.stage import KAFKA_PARTITIONS, Stage
from tests.bench.workers import Workers, finished, listening, workers
from tests.support.processes import running
from tests.support.rigs.load import Load
from tests.support.rigs.publisher import publisher

LIMIT = 10
FIELDS = ["id", "doc_id", "chunk", "text", "event_time", "kafka_topic", "kafka_partition", "kafka_offset", "$meta"]
"""What an answer shows of a row."""
_SEARCHES = 300
_PACED_PER_S = 20
_PACED_S = 25.0
_DRAINED = 4_000
_WAITS, _WAITING = 8, 4
"""Rounds, and records of a round."""
_WAIT_POLL_S = 0.005
_WANTED_ABOVE_PARTS, _WANTED_HYBRID, _WANTED_BESIDE, _WANTED_WAIT_MS = 1.2, 1.6, 2.0, 50.0


def measure(made: Stage, model_name: str, model: Embedder, asked: Sequence[str]) -> dict[str, float]:
    """All but hybrid, on the servers of `made`, with both workers as they come."""
    with workers(made, model_name) as at:
        texts = cycle(asked)
        found = _above_parts(at, made.milvus, model, texts)
        found |= _after_writes(at, made.kafka, texts)
        idle = _paced(at, texts, threading.Event())
        rate = _drain_rate(at, made.kafka)
        with _published(made.kafka, at.topic, rate / 2) as ended:
            beside = _paced(at, texts, ended)
        at.end()
    return {
        **found,
        "idle_p99_ms": p99_ms(idle),
        "records_per_s": rate / 2,
        "beside_ingest_p50_ms": p50_ms(beside),
        "beside_ingest_p99_ms": p99_ms(beside),
    }


def _above_parts(at: Workers, milvus: str, model: Embedder, texts: Iterator[str]) -> dict[str, float]:
    """The same searches by the query worker, and by the model and pymilvus in this process, in turns."""
    ours, embedding, searching = [], [], []
    say(f"{_SEARCHES} searches, each also as one embedding and one search of pymilvus")
    with closing(MilvusClient(milvus)) as raw, search_client(at.port) as client:
        for number in range(_SEARCHES + 20):
            body = {"query": next(texts), "limit": LIMIT, "mode": "dense"}
            seconds = client.seconds(body)
            began = time.perf_counter()
            vectors = model.embed_queries([next(texts)])
            embedded = time.perf_counter()
            raw.search(at.collection, vectors, limit=LIMIT, output_fields=FIELDS, anns_field="vector")
            ended = time.perf_counter()
            if number >= 20:  # the first ones warm up
                ours.append(seconds)
                embedding.append(embedded - began)
                searching.append(ended - embedded)
    return {"p50_ms": p50_ms(ours), "embed_p50_ms": p50_ms(embedding), "raw_search_p50_ms": p50_ms(searching)}


def _paced(at: Workers, texts: Iterator[str], ended: threading.Event) -> list[float]:
    """Searches at a steady pace for some time, or until `ended`."""
    say(f"{_PACED_PER_S} searches/s for {_PACED_S:.0f} s")
    taken = []
    begun = time.monotonic()
    with search_client(at.port) as client:
        for number in range(int(_PACED_S * _PACED_PER_S)):
            if ended.wait(max(0.0, begun + number / _PACED_PER_S - time.monotonic())):
                raise RuntimeError("the records came to an end before the searches")
            taken.append(client.seconds({"query": next(texts), "limit": LIMIT, "mode": "dense"}))
    return taken


def _drain_rate(at: Workers, kafka: str) -> float:
    """Records a second that the ingest worker takes, from a backlog."""
    before = finished(at.ingest)
    with publisher(kafka, at.topic) as sender:
        sender.publish(Load(7, KAFKA_PARTITIONS).next_records(_DRAINED))
        sender.flush(60)
    began, at_begin = time.monotonic(), finished(at.ingest)
    while finished(at.ingest) < before + _DRAINED:
        if time.monotonic() - began > 300:
            raise RuntimeError(f"the ingest worker did not take {_DRAINED} records within 300 s")
        time.sleep(0.1)
    return (before + _DRAINED - at_begin) / (time.monotonic() - began)


@contextmanager
def _published(kafka: str, topic: str, rate: float) -> Iterator[threading.Event]:
    """Publish at a steady pace; the event is set where the publisher fails."""
    failed, ended = threading.Event(), threading.Event()

    def publish() -> None:
        load = Load(8, KAFKA_PARTITIONS)
        begun, sent = time.monotonic(), 0
        try:
            with publisher(kafka, topic) as sender:
                while not ended.wait(0.1):
                    due = int(rate * (time.monotonic() - begun))
                    sender.publish(load.next_records(due - sent))
                    sent = due
        finally:
            failed.set()

    say(f"publishing {rate:.0f} records/s")
    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield failed
    finally:
        ended.set()
        thread.join()


def _after_writes(at: Workers, kafka: str, texts: Iterator[str]) -> dict[str, float]:
    """Searches that wait for records: the answer's time above that at which the record is seen to be committed."""
    say(f"{_WAITS} times {_WAITING} searches that wait for a record")
    above: list[float] = []
    written: list[float] = []
    settings = KafkaSettings(kafka, (at.topic,), at.group)
    with (
        closing(GroupOffsets(settings)) as offsets,
        closing(KafkaProducer(bootstrap_servers=kafka)) as sender,
        ThreadPoolExecutor(_WAITING) as pool,
    ):
        for each in range(_WAITS):
            sent = [sender.send(at.topic, **_document(f"wait-{each}-{one}")) for one in range(_WAITING)]
            placed = [future.get(30) for future in sent]
            records = [(at.topic, one.partition, one.offset) for one in placed]
            began = time.monotonic()
            answers = [pool.submit(_waiting, at.port, record, next(texts)) for record in records]
            commits = _commits(offsets, records)
            ends = [answer.result() for answer in answers]
            above += [end - commit for end, commit in zip(ends, commits, strict=True)]
            written += [end - began for end in ends]
    return {
        "wait_for_above_commit_p50_ms": p50_ms(above),
        "wait_for_above_commit_p99_ms": p99_ms(above),
        "wait_for_p50_ms": p50_ms(written),
    }


def _document(name: str) -> dict[str, bytes]:
    document = {"id": name, "text": f"the harbour of {name}", "event_time": datetime.now(UTC).isoformat()}
    return {"key": name.encode(), "value": json.dumps(document).encode()}


def _waiting(port: int, record: tuple[str, int, int], text: str) -> float:
    topic, partition, offset = record
    awaited = {"topic": topic, "partition": partition, "offset": offset}
    body = {"query": text, "mode": "dense", "timeout_ms": 60_000, "freshness": {"wait_for": [awaited]}}
    with search_client(port) as client:
        client.seconds(body)
    return time.monotonic()


def _commits(offsets: GroupOffsets, records: Sequence[tuple[str, int, int]]) -> list[float]:
    """When each record was first seen to be committed."""
    seen: dict[tuple[str, int, int], float] = {}
    deadline = time.monotonic() + 60
    while len(seen) < len(records):
        committed = {(topic, partition): offset for (topic, partition), offset in offsets.committed().items()}
        now = time.monotonic()
        if now > deadline:
            raise RuntimeError("a record was not committed within 60 s")
        for record in records:
            if record not in seen and committed.get(record[:2], 0) > record[2]:
                seen[record] = now
        time.sleep(_WAIT_POLL_S)
    return [seen[record] for record in records]


@contextmanager
def serving(folder: Path, settings: Mapping[str, Any]) -> Iterator[int]:
    """A query worker of its own; gives its port."""
    config = folder / "serve.yaml"
    config.write_text(yaml.safe_dump({"telemetry": {"port": 0, "log_format": "json"}, **settings}))
    with running(["-m", "consumers.cli", "serve", "-c", str(config)], folder / "serve.log") as worker:
        yield int(listening(worker)["port"])


def hybrid(folder: Path, uri: str, collection: str, model_name: str, asked: Sequence[str]) -> dict[str, float]:
    """The same searches by meaning, and by meaning and words, in turns."""
    settings = {
        "milvus": {"uri": uri, "collection": collection},
        "embedding": {"model": model_name},
        "query": {"port": 0},
    }
    found: dict[str, list[float]] = {"dense": [], "hybrid": []}
    with serving(folder, settings) as port, search_client(port) as client:
        for text in asked:
            for mode, taken in found.items():
                taken.append(client.seconds({"query": f"{text} {mode}", "limit": LIMIT, "mode": mode}))
    return {f"{mode}_p50_ms": p50_ms(taken[20:]) for mode, taken in found.items()}


def targets(found: Mapping[str, float]) -> list[Target]:
    """Those of one search."""
    parts = found["embed_p50_ms"] + found["raw_search_p50_ms"]
    return [
        Target(
            "p50 of a search / one embedding and one raw search", found["p50_ms"] / parts, _WANTED_ABOVE_PARTS, True
        ),
        Target(
            "p99 beside ingest at half load / idle",
            found["beside_ingest_p99_ms"] / found["idle_p99_ms"],
            _WANTED_BESIDE,
            True,
        ),
        Target("wait_for, ms above the commit, p50", found["wait_for_above_commit_p50_ms"], _WANTED_WAIT_MS, True),
    ]


def hybrid_targets(found: Mapping[str, float]) -> list[Target]:
    """Those of both orders together."""
    return [Target("p50 of hybrid / dense", found["hybrid_p50_ms"] / found["dense_p50_ms"], _WANTED_HYBRID, True)]
