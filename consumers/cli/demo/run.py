"""The whole product on this machine: real Kafka, Milvus Lite, real documents, both workers, four searches."""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from consumers.cli.common.output import progress_line, stderr, stdout
from consumers.cli.common.results import show_results
from consumers.kafka import KafkaSettings, Publisher, create_topic
from consumers.local import LocalKafka, LocalMilvusLite, SampleDocument, stdlib_documents
from consumers.local.server import LOOPBACK, Command, LocalServer
from pipeline.errors import MilvusStreamError

TOPIC = "documents"
KAFKA_PARTITIONS = 4
SPREAD = timedelta(days=7)
UPDATED_TEXT = "The lighthouse keeper of the demo paints every seventh lantern violet, to prove that an update arrives."


@dataclass(frozen=True, slots=True)
class _Published:
    document: SampleDocument
    event_time: datetime

    def value(self, text: str | None = None) -> bytes:
        record = {
            "id": self.document.id,
            "text": text or self.document.text,
            "event_time": self.event_time.isoformat(),
            "module": self.document.module,
            "kind": self.document.kind,
        }
        return json.dumps(record).encode()


class _Worker(LocalServer):
    """A worker of this product as a process of the demo: guarded, logged and stopped like the servers."""

    start_timeout_s = 120.0
    stop_grace_s = 20.0
    command: ClassVar[str]
    ready_path: ClassVar[str]

    def __init__(self, folder: Path, config: Path) -> None:
        super().__init__(folder / self.command)
        self._config = config

    def _command(self, port: int) -> Command:
        options = ["-c", str(self._config), "--set", f"{self.port_option}={port}"]
        return Command([sys.executable, "-m", "consumers.cli", self.command, *options], self.directory)

    def _address_at(self, port: int) -> str:
        return f"http://{LOOPBACK}:{port}"

    def _answers(self) -> bool:
        try:
            return httpx.get(self.address + self.ready_path, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


class _IngestWorker(_Worker):
    title = "the ingest worker"
    port_option = "telemetry.port"
    command = "ingest"
    ready_path = "/healthz"


class _QueryWorker(_Worker):
    title = "the query worker"
    port_option = "query.port"
    command = "serve"
    ready_path = "/readyz"


def run_demo(documents: int, *, keep: bool) -> None:
    """Run it all and print the results; with `keep` everything runs on until Ctrl-C or SIGTERM.

    Raises Unavailable when a server or worker ends, with the end of its log.
    """
    started = time.monotonic()
    screen = stderr()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milvus-stream-demo-")))
        with screen.status("starting Apache Kafka and Milvus Lite (the first time, Kafka is downloaded) …"):
            kafka, milvus = _start_servers(stack, folder)
        screen.print(f"Apache Kafka {kafka}   Milvus Lite {milvus}")
        config = _write_config(folder, kafka, milvus)
        ingest = _IngestWorker(folder, config)
        serve = _QueryWorker(folder, config)
        for worker in (ingest, serve):
            stack.callback(worker.stop)
            worker.launch()
        published = list(_spread(documents))
        seconds = _publish_and_watch(screen, kafka, published, ingest)
        with screen.status("waiting for the query worker …"):
            query = serve.await_ready()
        _search_all(stdout(), screen, query, kafka, published)
        total = time.monotonic() - started
        screen.print(
            f"\n{len(published)} documents were searchable {seconds:.1f} s after the first was published "
            f"({len(published) / seconds:.0f}/s, loading the model included); the whole demo took {total:.0f} s."
        )
        _next_steps(screen, kafka, milvus, query, config if keep else None)
        with suppress(KeyboardInterrupt):  # with --keep that is the end one asks for
            while keep:
                ingest.check()
                serve.check()
                time.sleep(0.5)


# --- starting ----------------------------------------------------------------------------------------------------


def _start_servers(stack: ExitStack, folder: Path) -> tuple[str, str]:
    kafka, milvus = LocalKafka(folder / "kafka"), LocalMilvusLite(folder / "milvus")
    for server in (kafka, milvus):
        stack.callback(server.stop)
        server.launch()
    return kafka.await_ready(), milvus.await_ready()


def _write_config(folder: Path, kafka: str, milvus: str) -> Path:
    config = {
        "kafka": {"bootstrap_servers": kafka, "topics": [TOPIC], "group_id": "demo", "session_timeout": "10s"},
        # Milvus Lite has no flush limit, so offsets become durable sooner than with the 30 s a server wants.
        "milvus": {"uri": milvus, "collection": "demo_documents", "flush_interval": "5s"},
        "telemetry": {"log_format": "json"},
    }
    path = folder / "milvus-stream.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    create_topic(_kafka(kafka), TOPIC, partitions=KAFKA_PARTITIONS)
    return path


def _kafka(address: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=address, topics=(TOPIC,), group_id="demo")


# --- publishing and watching -------------------------------------------------------------------------------------


def _spread(count: int) -> Iterator[_Published]:
    """The first `count` documents, their event times spread evenly over the last days in a shuffled order."""
    documents = [document for document, _ in zip(stdlib_documents(), range(count), strict=False)]
    now = datetime.now(UTC)
    ages = [SPREAD * (index + 1) / (len(documents) + 1) for index in range(len(documents))]
    random.Random(7).shuffle(ages)  # noqa: S311 - the same mixture in each run
    for document, age in zip(documents, ages, strict=True):
        yield _Published(document, now - age)


def _publish_and_watch(screen: Console, kafka: str, published: Sequence[_Published], ingest: _IngestWorker) -> float:
    """Publish everything, then follow the worker's metrics until it is stored; seconds since the first record."""
    started = time.monotonic()
    with Publisher(_kafka(kafka)) as publisher:
        for entry in published:
            publisher.send(TOPIC, entry.document.id.encode(), entry.value())
    screen.print(
        f"published {len(published)} documents of the Python standard library's own documentation "
        f"in {time.monotonic() - started:.1f} s"
    )
    with progress_line(screen, remains=True) as progress:
        progress("starting", 0, len(published))
        metrics_url = ingest.await_ready() + "/metrics"
        first: float | None = None
        done = 0.0
        while done < len(published):
            ingest.check()
            time.sleep(0.25)
            sums = _sums(httpx.get(metrics_url, trust_env=False).text)
            done = sums.get("ingest_records_total", 0.0)
            consumed = sums.get("ingest_records_consumed_total", 0.0)
            if consumed and first is None:
                first = time.monotonic()
            rate = f"{done / (time.monotonic() - first):.0f}/s" if first and done else ""
            progress(
                "ingested" if consumed else "loading the model, joining the group",
                int(done),
                len(published),
                f"{rate}  lag {len(published) - done:.0f}  "
                f"Milvus partitions {sums.get('ingest_milvus_partitions', 0):.0f}",
            )
    return time.monotonic() - started


def _sums(exposition: str) -> Mapping[str, float]:
    """Each metric's value, summed over its labels."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


# --- searching ---------------------------------------------------------------------------------------------------


def _search_all(out: Console, screen: Console, query: str, kafka: str, published: Sequence[_Published]) -> None:
    with httpx.Client(base_url=query, timeout=30.0, trust_env=False) as client:

        def search(text: str, **more: Any) -> Mapping[str, Any]:
            response = client.post("/v1/search", json={"query": text, "limit": 3, "highlights": True, **more})
            if response.status_code != httpx.codes.OK:
                raise MilvusStreamError(f"the search {text!r} was answered {response.status_code}: {response.text}")
            return dict(response.json())

        _show(out, "split a string at a separator", "", search("split a string at a separator"))
        only_classes = {"type": "eq", "key": "kind", "value": "class"}
        text = "compress data into an archive"
        _show(out, text, "where kind = class", search(text, filter=only_classes))
        text = "wait until several tasks have finished"
        _show(out, text, "of the last 24 hours", search(text, time={"last": "24h"}))

        updated, deleted = published[0], published[1]
        with Publisher(_kafka(kafka)) as publisher:
            publisher.send(TOPIC, updated.document.id.encode(), updated.value(UPDATED_TEXT))
            publisher.send(TOPIC, deleted.document.id.encode(), None)
        sent = time.monotonic()

        def changed() -> bool:
            top = search("violet lighthouse lantern")["results"]
            of_deleted = search(deleted.document.text[:500])["results"]
            return (
                bool(top)
                and top[0]["doc_id"] == updated.document.id
                and all(hit["doc_id"] != deleted.document.id for hit in of_deleted)
            )

        with screen.status("one document updated, one deleted: waiting until the search shows it …"):
            visible = _seconds_until(changed)
        title = f"after updating {updated.document.id} and deleting {deleted.document.id}"
        _show(out, "violet lighthouse lantern", title, search("violet lighthouse lantern"))
        screen.print(f"both changes were visible {visible - sent:.1f} s after they were published")


def _seconds_until(condition: Callable[[], bool], within_s: float = 60.0) -> float:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise MilvusStreamError(f"the update and the delete were not visible within {within_s:.0f} s")
        time.sleep(0.1)
    return time.monotonic()


def _show(out: Console, text: str, what: str, answer: Mapping[str, Any]) -> None:
    out.print()
    show_results(answer, out, title=f'"{text}" {what}')


def _next_steps(screen: Console, kafka: str, milvus: str, query: str, config: Path | None) -> None:
    if config is None:
        screen.print(
            "Everything has been stopped and removed. `--keep` leaves it running; README.md says how to go on."
        )
        return
    screen.print(
        f"\nKafka {kafka}   Milvus {milvus}   query worker {query}   configuration {config}\n"
        f"try:  curl -s {query}/v1/search -H 'content-type: application/json' -d '{{\"query\": \"read a file\"}}'\n"
        f"      milvus-stream status -c {config}\n"
        "Ctrl-C stops and removes everything."
    )
