"""The servers of a scenario, a topic, a group and a collection on them, and what is checked there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from pymilvus import MilvusClient

from tests.chaos.servers import Killable
from tests.support.milvus import milvus_client
from tests.support.names import unique
from tests.support.oracle.contract import Contract, Scope
from tests.support.oracle.observed import committed_and_end, read_all, stored_documents
from tests.support.oracle.stored import expected, judge, judge_documents
from tests.support.oracle.verdict import Verdict
from tests.support.rigs.load import Load, Sent
from tests.support.rigs.publisher import produce
from tests.support.rigs.site import Site, write_config

LOST = 4
"""The exit code of a worker that finds something gone."""
_DIMENSION = 16


@dataclass(frozen=True)
class Servers:
    """Kafka and Milvus of their own."""

    folder: Path
    kafka: Killable
    milvus: Killable
    bootstrap: str
    uri: str


@dataclass
class Scene:
    """One topic of two Kafka partitions, its group and its collection; `problems` is empty if all was as it must be."""

    servers: Servers
    site: Site
    load: Load
    problems: list[str] = field(default_factory=list)

    @property
    def topic(self) -> str:
        return self.site.name

    @property
    def collection(self) -> str:
        return self.site.name.replace("-", "_")

    @property
    def scope(self) -> Scope:
        """What the oracle compares."""
        letters = self.site.dead_letter_topic
        contract = Contract(dimension=_DIMENSION)
        return Scope(self.servers.bootstrap, (self.topic,), self.topic, letters, self.collection, contract)

    # --- what happens ------------------------------------------------------------------------------------------------

    def publish(self, count: int) -> None:
        """So many records of good documents and deletes; all of them confirmed."""
        records: list[Sent] = []
        while len(records) < count:
            records += [record for record in self.load.next_records(count - len(records)) if not record.poison]
        produce(self.servers.bootstrap, self.topic, records)

    def ingest(self, *options: str) -> subprocess.CompletedProcess[str]:
        """A worker until it has caught up, or stops."""
        return self.site.run("ingest", "--until-caught-up", *options)

    def audit_in(self, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
        """An audit whose temporary files are there from the first row on, not only beyond what fits into memory."""
        switches = self.servers.folder / "switches"
        switches.mkdir(exist_ok=True)
        entry = ["-m", "tests.chaos.worker", str(switches), "audit"]
        return subprocess.run(
            [sys.executable, *entry, "audit", "-c", str(self.site.config), *options],
            env={**os.environ, "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def ingested(self, count: int) -> None:
        """Publish, and see a worker write all of it."""
        self.publish(count)
        self.check(self.ingest(), 0, "before anything was taken away")

    def continue_as_documented(self) -> None:
        """Go on at what is left."""
        self.check(self.ingest("--accept-gap"), 0, "with --accept-gap")

    def continue_elsewhere(self) -> None:
        """Fill a new collection from the log as it is, by a new group; all of it must be exact."""
        name = f"{self.collection}_anew"
        options = ("--set", f"milvus.collection={name}", "--set", f"kafka.group_id={name}")
        self.check(self.ingest(*options), 0, "into a new collection")
        with self.client() as client:
            verdict = judge(replace(self.scope, group=name, collection=name), client)
        if verdict.harms:
            self.problems.append(f"in the new collection: {verdict}")

    def recreate_topic(self) -> None:
        """Delete the topic and create one of the same name."""
        admin = self.admin()
        for each in admin.delete_topics([self.topic]).values():
            each.result(20)
        create_topic(admin, self.topic)

    def remove_records(self, before: Mapping[int, int]) -> None:
        """As retention does: the log of a Kafka partition begins at this offset from now on."""
        wanted = [TopicPartition(self.topic, number, offset) for number, offset in before.items()]
        admin = self.admin()
        for each in admin.delete_records(wanted).values():
            each.result(20)

    def expire_offsets(self) -> None:
        """As the broker does with an idle group: it has committed nothing."""
        admin = self.admin()
        for each in admin.delete_consumer_groups([self.topic]).values():
            each.result(20)

    def copy_log(self) -> Path:
        """The topic's log as it is now."""
        copy = self.servers.folder / f"{self.topic}-log"
        shutil.rmtree(copy, ignore_errors=True)
        for part in self._log_folders():
            shutil.copytree(part, copy / part.name)
        return copy

    def cut_log(self, copy: Path) -> None:
        """Take the topic's log, and nothing else, back to a copy: the rest was not synced when the machine died."""
        self.servers.kafka.kill()
        for part in self._log_folders():
            shutil.rmtree(part)
            shutil.copytree(copy / part.name, part)
        self.servers.kafka.launch()
        self.servers.kafka.await_ready()

    # --- what is there -----------------------------------------------------------------------------------------------

    def log(self) -> dict[int, tuple[int, int]]:
        """First offset and end by Kafka partition."""
        with closing(Consumer({"bootstrap.servers": self.servers.bootstrap, "group.id": "scene"})) as consumer:
            return {
                number: consumer.get_watermark_offsets(TopicPartition(self.topic, number), timeout=20)
                for number in range(PARTITIONS)
            }

    def committed(self) -> dict[int, int]:
        """By Kafka partition."""
        return {
            number: at for number, (at, _) in committed_and_end(self.servers.bootstrap, self.topic, self.topic).items()
        }

    def rows(self) -> int:
        """Of documents, by the server's count."""
        with self.client() as client:
            client.load_collection(self.collection, timeout=120)  # after a restart it may not be yet
            return stored_documents(client, self.collection).counted

    @contextmanager
    def client(self) -> Iterator[MilvusClient]:
        with closing(milvus_client(self.servers.uri)) as client:
            yield client

    def admin(self) -> AdminClient:
        """It must outlive its answers."""
        return AdminClient({"bootstrap.servers": self.servers.bootstrap, "log_level": 2})

    # --- what must be ------------------------------------------------------------------------------------------------

    def check(self, done: subprocess.CompletedProcess[str], code: int, when: str) -> None:
        """The exit code of a worker."""
        if done.returncode != code:
            self.problems.append(f"exit code {done.returncode}, not {code}, {when}: {done.stderr[-600:]}")

    def check_stop(self, done: subprocess.CompletedProcess[str], numbers: Sequence[Sequence[int]]) -> None:
        """It stopped with exit code 4; its message has the numbers of one Kafka partition, and a way to go on."""
        self.check(done, LOST, "where something is gone")
        if done.returncode != LOST:
            return
        message = done.stderr.rpartition("milvus-stream: ")[2]
        named = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", message)}
        if numbers and not any(named >= set(each) for each in numbers):
            self.problems.append(f"the message names none of {numbers}: {message}")
        if not re.search(r"--accept-gap|replay|milvus.collection", message):
            self.problems.append(f"the message does not say how to go on: {message}")

    def check_left(self) -> None:
        """Of every document in the topic, exactly its newest version is there; of others, what lost records made."""
        with self.client() as client:
            wanted = expected(read_all(self.servers.bootstrap, self.topic), Contract(dimension=_DIMENSION))
            stored = stored_documents(client, self.collection)
            for name in stored.documents.keys() - wanted.versions.keys():
                stored.counted -= len(stored.documents.pop(name))  # of records that are gone
            verdict = judge_documents(wanted, stored, Verdict(), dimension=_DIMENSION)
        if verdict.harms:
            self.problems.append(f"after going on: {verdict}")

    def _log_folders(self) -> Sequence[Path]:
        data = self.servers.kafka.server.directory / "data"
        return [data / f"{self.topic}-{number}" for number in range(PARTITIONS)]


PARTITIONS = 2


def create_topic(admin: AdminClient, name: str) -> None:
    """Create a topic; one that was just deleted may still be going."""
    for _ in range(50):
        (answer,) = admin.create_topics([NewTopic(name, PARTITIONS, 1)]).values()
        if answer.exception(20) is None:
            return
    answer.result(20)


def set_scene(servers: Servers, name: str, seed: int) -> Scene:
    """A new topic with its dead-letter topic; the worker creates the collection."""
    site_name = unique(re.sub(r"\W+", "-", name))
    sections: dict[str, Any] = {
        "embedding": {"model": f"hash:{_DIMENSION}"},
        "chunking": {"max_tokens": 24, "overlap": 4},
        "batch": {"max_records": 100},
        "telemetry": {"port": 0, "log_format": "json"},
        "kafka": {"metadata_max_age_ms": 5_000},  # by which a running worker notices that a topic is another one
    }
    config = write_config(servers.folder / f"{site_name}.yaml", site_name, servers.bootstrap, servers.uri, sections)
    scene = Scene(servers, Site(site_name, config, servers.bootstrap, servers.uri), Load(seed, PARTITIONS))
    admin = scene.admin()
    create_topic(admin, site_name)
    create_topic(admin, scene.site.dead_letter_topic)
    return scene


def worker_process(scene: Scene, *options: str) -> subprocess.Popen[str]:
    """A worker that runs until it is ended, or stops."""
    return subprocess.Popen(
        [sys.executable, *scene.site.arguments("ingest", *options)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
