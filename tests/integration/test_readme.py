"""Every command in the README and the quickstart does what the page says, in the order of the page."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jgo
import pytest
import yaml
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from consumers.local.kafka import KAFKA_VERSION, java_and_class_path
from tests.support.milvus import milvus_client
from tests.support.rigs.load import Sent
from tests.support.rigs.publisher import produce
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()


def _blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def _commands(page: str = README) -> list[list[str]]:
    return [block.strip().splitlines() for block in _blocks("sh", page)]


def test_the_two_commands_of_a_fresh_machine() -> None:
    assert _commands()[0] == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.timeout(600)
def test_make_demo_ends_with_search_results() -> None:
    make = shutil.which("make")
    assert make, "make is one of the few things this project needs"
    environment = {**os.environ, "ARGS": "--documents 200", "COLUMNS": "120"}
    done = subprocess.run(
        [make, "demo"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("Milvus partitions searched") == 4
    assert "published 200 documents" in done.stderr
    assert "both changes were visible" in done.stderr


def test_the_commands_for_a_kafka_and_milvus_of_ones_own(
    kafka_bootstrap: str,
    milvus_uri: str,
    make_topic: Callable[..., str],
    unique_name: Callable[..., str],
    tmp_path: Path,
) -> None:
    (config,), (record,) = _blocks("yaml"), _blocks("json")
    (tmp_path / "milvus-stream.yaml").write_text(config)
    topic, collection = make_topic(2, prefix="readme"), unique_name("readme").replace("-", "_")
    document = json.loads(record) | {"event_time": datetime.now(UTC).isoformat()}
    produce(kafka_bootstrap, topic, [Sent(b"ticket", json.dumps(document).encode()), Sent(b"bad", b"{")])
    with _shell(tmp_path, kafka_bootstrap, topic, milvus_uri, collection) as shell:
        _run_all(_commands()[1], shell, document["id"])


def test_the_quickstart_leads_to_a_search_result(
    kafka_bootstrap: str, milvus_uri: str, unique_name: Callable[..., str], tmp_path: Path
) -> None:
    (config,), (publishing,) = _blocks("yaml", QUICKSTART), _blocks("python", QUICKSTART)
    topic = unique_name("quickstart")
    install, local, configure, *steps = _commands(QUICKSTART)
    assert install == ["make install", "source .venv/bin/activate", "milvus-stream --help"]
    assert local == ["milvus-stream local up --topic documents"]
    with _shell(tmp_path, kafka_bootstrap, topic, milvus_uri, topic.replace("-", "_")) as shell:
        assert "ingest" in shell.run(shlex.split(install[2]))
        assert {"--topic", "--free-ports"} <= set(shell.run(["milvus-stream", "local", "up", "--help"]).split())
        printed = [shell.run(shlex.split(command)) for command in configure]
        assert topic in printed[-1]
        written = yaml.safe_load((tmp_path / "milvus-stream.yaml").read_text())
        shown = yaml.safe_load(config)
        assert {section: {key: written[section][key] for key in shown[section]} for section in shown} == shown
        shell.run([sys.executable, "-c", _sent_to(publishing, kafka_bootstrap, topic)])
        _run_all([command for step in steps for command in step], shell, "ticket-4711")
    with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin:
        admin.delete_topics([topic])


def test_the_producers_of_the_quickstart_agree_on_the_partition_of_a_key(
    kafka_bootstrap: str, make_topic: Callable[..., str]
) -> None:
    """The CRC32 of librdkafka's own default puts this key elsewhere."""
    topic = make_topic(16, prefix="producers")
    (kafka_python,), (confluent,) = _blocks("python", QUICKSTART), _blocks("python confluent-kafka", QUICKSTART)
    (console,) = _blocks("sh console", QUICKSTART)
    one_id = confluent.replace("ticket-4712", "ticket-4711")
    for program in (kafka_python, one_id, confluent):
        subprocess.run([sys.executable, "-c", _sent_to(program, kafka_bootstrap, topic)], check=True, timeout=60)
    _run_console_producer(_sent_to(console, kafka_bootstrap, topic))
    with closing(KafkaConsumer(bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest")) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(16)])
        records: list[Any] = []

        def all_four() -> bool:
            records.extend(record for batch in consumer.poll(timeout_ms=500).values() for record in batch)
            return len(records) >= 4

        eventually(all_four, within=30, what="the four records")
    assert [json.loads(record.value)["id"] for record in records] == [record.key.decode() for record in records]
    places = {(record.key, record.partition) for record in records}
    assert len(places) == len({key for key, _ in places}) == 3


def _sent_to(program: str, kafka: str, topic: str) -> str:
    """A producer of a page, for the broker and the topic of a test."""
    return (
        program.replace("localhost:9092", kafka)
        .replace('"documents"', f'"{topic}"')
        .replace("--topic documents", f"--topic {topic}")
    )


def _run_console_producer(command: str) -> None:
    """Run the command with a `kafka-console-producer.sh` made of Kafka's own class."""
    java, _ = java_and_class_path()
    jars = [str(jar) for jar in jgo.build(f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}").all_jars]
    program = f"{java} -cp {os.pathsep.join(jars)} org.apache.kafka.tools.ConsoleProducer"
    done = subprocess.run(
        ["sh", "-c", command.replace("kafka-console-producer.sh", program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def _shell(folder: Path, kafka: str, topic: str, milvus: str, collection: str) -> Iterator["_Shell"]:
    """A shell whose environment sends the configuration of a page to the servers of the tests."""
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": kafka,
        "KAFKA__TOPICS": topic,
        "KAFKA__GROUP_ID": topic,
        "KAFKA__DEAD_LETTER_TOPIC": f"{topic}.dlq",
        "MILVUS__URI": milvus,
        "MILVUS__COLLECTION": collection,
        "MILVUS__FLUSH_INTERVAL": "1s",
        "EMBEDDING__MODEL": "hash:32",
        "TELEMETRY__PORT": "0",
        "QUERY__PORT": "0",
    }
    shell = _Shell(folder, {f"MILVUS_STREAM__{name}": value for name, value in settings.items()})
    try:
        yield shell
    finally:
        shell.close()
        with closing(milvus_client(milvus)) as client:
            for name in (collection, f"{collection}__ledger", f"{collection}__marks"):
                client.drop_collection(name)


class _Shell:
    """Runs commands in a folder, with the installed `milvus-stream` on the path."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._folder = folder
        self._environment = {**os.environ, **environment, "PATH": path}
        self._started: list[subprocess.Popen[str]] = []

    def run(self, words: list[str]) -> str:
        """The command's standard output; it must succeed."""
        done = subprocess.run(
            words, cwd=self._folder, env=self._environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def start(self, words: list[str], until: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        """Start the command; returns the log line that holds `until`."""
        log = self._folder / f"{words[1]}.log"
        with log.open("w") as errors:
            process = subprocess.Popen(words, cwd=self._folder, env=self._environment, stderr=errors, text=True)
        self._started.append(process)

        def find() -> str:
            assert process.poll() is None, log.read_text()
            return next((line for line in log.read_text().splitlines() if until in line), "")

        return process, json.loads(eventually(find, within=90, what=f"{until} in the log of {words}"))

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()


def _run_all(commands: list[str], shell: _Shell, doc_id: str) -> None:
    shows = {"search": doc_id, "curl": doc_id, "dlq": "invalid_json"}
    port, server = 0, None
    for command in commands:
        words = shlex.split(command)
        if words == ["milvus-stream", "ingest"]:
            worker, _ = shell.start(words, "batch.written")
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        elif words == ["milvus-stream", "serve"]:
            server, line = shell.start(words, "query.listening")
            port = line["port"]
        else:
            output = shell.run([word.replace("localhost:8080", f"127.0.0.1:{port}") for word in words])
            for word, shown in shows.items():
                assert word not in words or shown in output, (command, output)
    assert server is not None
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
