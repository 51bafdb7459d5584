"""Whether the Kafka client starves beside the engine: both live in one process, under one interpreter lock."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from typing import Any

from consumers.kafka import KafkaSettings, Publisher, create_topic
from consumers.local import LocalKafka
from tests.bench.children import contender
from tests.bench.contender import Go, arguments, contend
from tests.bench.corpus import small_records
from tests.bench.embedding import texts
from tests.bench.embedding.place import Place
from tests.bench.embedding.rows import Row
from tests.bench.report import middle, say
from tests.support.names import unique

RECORDS = 200_000
RECORD_BYTES = 300
_CHUNKS = 256
_WANTED_HEADROOM = 10.0


def main() -> None:
    """In a process of its own: read the topic to its end, alone and while another thread embeds without a pause."""
    from kafka import KafkaConsumer

    from pipeline.chunking import Chunker, ChunkingPolicy
    from pipeline.embedding import EmbeddingSettings, load_embedder
    from pipeline.telemetry import configure_logging

    given = arguments()
    configure_logging("error", "json")
    engine = load_embedder(EmbeddingSettings(given["model"]))
    chunker = Chunker(engine.tokenizer, ChunkingPolicy())
    chunks = [chunk for document in chunker.chunk(texts.mixed(engine.tokenizer, _CHUNKS)) for chunk in document]
    engine.embed(chunks)

    def read(topic: str, kafka: str) -> float:
        options = {"auto_offset_reset": "earliest", "group_id": None, "enable_auto_commit": False}
        with closing(KafkaConsumer(topic, bootstrap_servers=kafka, max_poll_records=2000, **options)) as consumer:
            count = sum(map(len, consumer.poll(10_000).values()))
            began, first = time.perf_counter(), count
            while count < RECORDS:
                count += sum(map(len, consumer.poll(1000).values()))
            return (count - first) / (time.perf_counter() - began)

    def embed_until(ended: threading.Event) -> float:
        began, count = time.perf_counter(), 0
        while not ended.is_set():
            engine.embed(chunks)
            count += len(chunks)
        return count / (time.perf_counter() - began)

    def prepare(job: dict[str, Any]) -> Go:
        def go() -> dict[str, Any]:
            alone = read(job["topic"], job["kafka"])
            ended, rates = threading.Event(), list[float]()
            thread = threading.Thread(target=lambda: rates.append(embed_until(ended)))
            thread.start()
            try:
                beside = read(job["topic"], job["kafka"])
            finally:
                ended.set()
                thread.join()
            return {"alone": alone, "beside": beside, "chunks_per_s": rates[0]}

        return go

    contend(prepare)


def measure(place: Place, rounds: int) -> list[dict[str, Any]]:
    """Alone and beside the engine in turns, in one process."""
    shown = ("alone", "beside", "chunks_per_s")
    found, named = [], os.environ.get("KAFKA_BOOTSTRAP")
    with nullcontext(named) if named else LocalKafka(place.folder / "reading-kafka") as kafka:
        topic = unique("bench")
        reached = KafkaSettings(kafka, (topic,), topic)
        create_topic(reached, topic, partitions=4)
        with Publisher(reached) as publisher:
            for key, record in small_records(RECORDS, RECORD_BYTES):
                publisher.send(topic, key, record)
        with contender("embedding.reading", place.arguments(), place.folder) as process:
            for number in range(rounds):
                process.prepare({"topic": topic, "kafka": kafka})
                figures = process.go()
                found.append(figures)
                told = ", ".join(f"{name} {value:,.0f}" for name, value in figures.items() if name in shown)
                say(f"reading Kafka, records/s, round {number + 1}/{rounds}: {told}")
    return found


def rows(found: Sequence[Mapping[str, Any]]) -> list[Row]:
    """How many records the client reads for every chunk that the engine embeds meanwhile."""
    headroom = middle([one["beside"] / one["chunks_per_s"] for one in found])
    note = "; ".join(f"{one['alone']:,.0f} alone, {one['beside']:,.0f} beside the engine" for one in found)
    what = "records read from Kafka while one chunk is embedded, one process"
    return [Row("reading", what, headroom, _WANTED_HEADROOM, note=note)]


if __name__ == "__main__":
    main()
