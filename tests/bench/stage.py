"""What the parts of a benchmark stand on: servers, folder, model, settings, and fresh names that are cleared away."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from kafka.admin import KafkaAdminClient

from consumers.kafka import KafkaSettings, Publisher, broker_info, create_topic
from consumers.local import LocalKafka, LocalMilvusStandalone
from pipeline.store import connect
from tests.bench.children import Contender
from tests.bench.corpus import BenchDocument, read_documents
from tests.bench.report import busy_s, say
from tests.support.names import unique

KAFKA_PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Stage:
    """Servers and a folder; `model` is None where no part needs one."""

    kafka: str
    milvus: str
    folder: Path
    settings: Mapping[str, Any]
    """Of every worker, as in its YAML file."""
    model: Mapping[str, Any] | None = None

    @property
    def documents_file(self) -> Path:
        """The documents, one JSON object a line."""
        return self.folder / "documents.jsonl"

    @property
    def markers_file(self) -> Path:
        """The vectors of the documents set apart for the freshness part."""
        return self.folder / "markers.npy"

    def documents(self) -> list[BenchDocument]:
        """The documents, counted in the model's tokens."""
        return read_documents(self.documents_file)

    def for_contender(self, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The arguments of a contender."""
        return {
            "kafka": self.kafka,
            "milvus": self.milvus,
            "documents": str(self.documents_file),
            "settings": settings or self.settings,
            "model_folder": self.model["folder"] if self.model else "",
            "prepared": self.model["prepared"] if self.model else "",
        }

    def versions(self) -> dict[str, str]:
        """Of the servers."""
        with closing(connect(self.milvus)) as api:
            kind = "Lite" if api.server.lite else "server"
            milvus = f"{kind} {'.'.join(map(str, api.server.number))}"
        return {"kafka": broker_info(KafkaSettings(self.kafka, ("none",), "bench")).version, "milvus": milvus}

    def publish(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Add records to the topic, which is created where it is missing; each is confirmed when this returns."""
        reached = KafkaSettings(self.kafka, (topic,), topic)
        create_topic(reached, topic, partitions=KAFKA_PARTITIONS)
        with Publisher(reached) as publisher:
            for key, record in records:
                publisher.send(topic, key, record)

    @contextmanager
    def names(self) -> Iterator["Names"]:
        """Fresh topics, groups and collections; removed from the servers with the block."""
        names = Names()
        try:
            yield names
        finally:
            self._clear(names)

    def _clear(self, names: "Names") -> None:
        with closing(connect(self.milvus)) as api:
            for name in set(api.collections()) & names.collections:
                api.drop_collection(name)
        with closing(KafkaAdminClient(bootstrap_servers=self.kafka)) as admin:
            wanted = names.topics | {f"{topic}.dlq" for topic in names.topics}
            admin.delete_topics(sorted(wanted & set(admin.list_topics())))

    def server_cpu_s(self) -> dict[str, float]:
        """Processor seconds used so far by the servers, where they run on this machine as this user."""
        ports = {"kafka": int(self.kafka.rpartition(":")[2]), "milvus": urlsplit(self.milvus).port or 19530}
        used = {}
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or connection.pid is None or not connection.laddr:
                continue
            for name, port in ports.items():
                if connection.laddr.port == port:
                    times = psutil.Process(connection.pid).cpu_times()
                    used[name] = times.user + times.system
        return used

    def run(self, contender: Contender) -> dict[str, Any]:
        """Give the word; the figures, with what the servers used and how many cores other programs kept busy."""
        (figures,) = self.run_together([contender])
        return figures

    def run_together(self, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
        """The same with several at a time; servers and other programs are told with each of them."""
        before, busy = self.server_cpu_s(), busy_s()
        for contender in contenders:
            contender.begin()
        found = [contender.finish() for contender in contenders]
        busy, after = busy_s() - busy, self.server_cpu_s()
        servers = {name: after[name] - before[name] for name in after if name in before}
        others = busy - sum(figures["cpu_s"] for figures in found) - sum(servers.values())
        other_cores = max(0.0, others / max(figures["seconds"] for figures in found))
        return [{**figures, "servers_cpu_s": servers, "other_cores": other_cores} for figures in found]


class Names:
    """Names in use by one round."""

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.collections: set[str] = set()

    def topic(self) -> str:
        """A topic of this round."""
        name = unique("bench")
        self.topics.add(name)
        return name

    def job(self, topic: str, records: int) -> dict[str, Any]:
        """A job for a contender: this topic, with a group and a collection that nobody has used.

        `end`: the sum of its end offsets.
        """
        name = unique("bench")
        self.collections |= {name, f"{name}__ledger", f"{name}__marks"}
        return {"topic": topic, "records": records, "end": records, "group": name, "collection": name}


@contextmanager
def stage(kafka: str | None, milvus: str | None, folder: Path, *, model: bool) -> Iterator[Stage]:
    """The servers named, or a Kafka and a Milvus of this block; with `model`, the documents counted by it."""
    with ExitStack() as stack:
        if kafka is None:
            say("starting Apache Kafka")
            kafka = stack.enter_context(LocalKafka(folder / "kafka"))
        if milvus is None:
            say("starting Milvus")
            milvus = stack.enter_context(LocalMilvusStandalone(folder / "milvus"))
        settings = {
            "kafka": {"bootstrap_servers": kafka},
            "milvus": {"uri": milvus, "durability": "ack"},
            "telemetry": {"port": 0, "log_level": "warning"},
        }
        made = Stage(kafka, milvus, folder, settings)
        if model:
            say("loading the model, counting the documents' tokens")
            made = Stage(kafka, milvus, folder, settings, _prepare(made))
        else:
            made.documents_file.write_text("")
        yield made


def _prepare(made: Stage) -> Mapping[str, Any]:
    given = {"settings": made.settings, "documents": str(made.documents_file), "markers": str(made.markers_file)}
    command = [sys.executable, "-m", "tests.bench.corpus", json.dumps(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts
