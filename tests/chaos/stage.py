"""Servers of a run's own, topics, proxies and places for workers."""

import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)
from pymilvus import MilvusClient

from tests.chaos.injection import Switches
from tests.chaos.isolation import disk
from tests.chaos.jobs import Jobs
from tests.chaos.profile import Profile, Topic
from tests.chaos.proxy import FaultProxy
from tests.chaos.report import say
from tests.chaos.servers import Killable, make_kafka, make_milvus
from tests.chaos.workers import Slot, Workers
from tests.support.milvus import milvus_client
from tests.support.rigs.shaped_load import ShapedLoad


@dataclass(frozen=True)
class Stage:
    """What a run plays on."""

    folder: Path
    profile: Profile
    bootstrap: str
    """Of the broker itself, past the proxies."""
    uri: str
    broker: Killable
    milvus: Killable
    workers: Workers
    jobs: Jobs
    loads: dict[str, ShapedLoad] = field(default_factory=dict)
    """By topic."""

    @property
    def disks(self) -> bool:
        """Whether the servers' disks can be full."""
        return self.broker.disk is not None

    @contextmanager
    def client(self) -> Iterator[MilvusClient]:
        """Of the server itself, past the proxies."""
        with closing(milvus_client(self.uri)) as client:
            yield client

    def await_servers(self) -> None:
        """Wait until both servers answer."""
        for server in (self.broker, self.milvus):
            server.launch()
            server.await_ready()

    def refuse_dead_letters(self, *, yes: bool) -> bool:
        """One broker cannot give two in-sync replicas, so it refuses what must be confirmed by all.

        False if the broker does not answer; it may be down at this moment.
        """
        entry = ConfigEntry("min.insync.replicas", "2" if yes else "1", incremental_operation=AlterConfigOpType.SET)
        resources = [
            ConfigResource(ResourceType.TOPIC, group.dead_letter_topic, incremental_configs=[entry])
            for group in self.profile.groups
        ]
        admin = self.admin()
        try:
            for each in admin.incremental_alter_configs(resources, request_timeout=5).values():
                each.result(10)
        except (KafkaException, TimeoutError):
            return False
        return True

    def add_partitions(self) -> bool:
        """One more Kafka partition for the first topic, into which new documents go. False as above."""
        load = self.loads[self.profile.topics[0].name]
        admin = self.admin()
        try:
            wanted = [NewPartitions(self.profile.topics[0].name, load.partitions + 1)]
            for each in admin.create_partitions(wanted, request_timeout=5).values():
                each.result(10)
        except (KafkaException, TimeoutError):
            return False
        load.partitions += 1
        return True

    def admin(self) -> AdminClient:
        """A client for the broker's settings; it must outlive its answers."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 2})


@contextmanager
def set_stage(folder: Path, seed: int, profile: Profile) -> Iterator[Stage]:
    """Kafka and Milvus up, no worker yet; at the end nothing of it runs any more."""
    with ExitStack() as stack:
        say(f"starting Apache Kafka and Milvus; profile {profile.name}")
        disks = [stack.enter_context(disk(folder / name)) for name in ("kafka", "milvus")]
        stack.callback(_keep_logs, folder)
        places = [(group, number) for group in profile.groups for number in range(group.slots)]
        broker, milvus = make_kafka(folder / "kafka", len(places)), make_milvus(folder / "milvus")
        kafka_proxies = [FaultProxy(port, seed + n) for n, port in enumerate(broker.listeners)]
        broker.advertise([proxy.port for proxy in kafka_proxies])
        for server in (broker, milvus):
            stack.callback(server.stop)
            server.launch()
        bootstrap, uri = broker.await_ready(), milvus.await_ready()
        kafka_port, milvus_port = (int(address.rpartition(":")[2]) for address in (bootstrap, uri))
        skews = random.Random(seed)
        slots = [
            Slot(number, group, proxy, FaultProxy(milvus_port, seed + 100 + number), skew_s=skews.uniform(-300, 300))
            for number, ((group, _), proxy) in enumerate(zip(places, kafka_proxies, strict=True))
        ]
        (folder / "switches").mkdir()
        workers = Workers(slots, folder, Switches(folder / "switches"))
        for slot in slots:
            workers.switches.shift_clock(slot.place, slot.skew_s)
        stack.callback(workers.end)
        jobs = Jobs(workers, kafka_port, milvus_port)
        stack.callback(jobs.kill)
        loads = {each.name: ShapedLoad(seed, each.partitions, each.shape, each.name) for each in profile.topics}
        stage = Stage(
            folder,
            profile,
            bootstrap,
            uri,
            Killable(broker, disks[0]),
            Killable(milvus, disks[1]),
            workers,
            jobs,
            loads,
        )
        _create_topics(stage, profile.topics)
        yield stage


def _keep_logs(folder: Path) -> None:
    """Copy the servers' logs to where they outlast their file systems."""
    for log in folder.glob("*/server.log"):
        shutil.copy(log, folder / f"{log.parent.name}.log")


def _create_topics(stage: Stage, topics: tuple[Topic, ...]) -> None:
    admin = stage.admin()
    new = [NewTopic(topic.name, topic.partitions, 1) for topic in topics]
    new += [NewTopic(group.dead_letter_topic, 2, 1) for group in stage.profile.groups]
    for each in admin.create_topics(new).values():
        each.result(30)
