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

import pytest
from kafka import KafkaAdminClient

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
    (tmp_path / "milvus-stream.yaml").write_text(config)
    topic = unique_name("quickstart")
    install, local, *steps = _commands(QUICKSTART)
    assert install == ["make install", "source .venv/bin/activate", "milvus-stream --help"]
    assert local == ["milvus-stream local up --kafka-port 9092 --milvus-port 19530"]
    with _shell(tmp_path, kafka_bootstrap, topic, milvus_uri, topic.replace("-", "_")) as shell:
        assert "ingest" in shell.run(shlex.split(install[2]))
        assert {"--kafka-port", "--milvus-port"} <= set(shell.run(["milvus-stream", "local", "up", "--help"]).split())
        program = publishing.replace("localhost:9092", kafka_bootstrap).replace('"documents"', f'"{topic}"')
        shell.run([sys.executable, "-c", program])
        _run_all([command for step in steps for command in step], shell, "ticket-4711")
    with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin:
        admin.delete_topics([topic])


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
    shows = {"search": doc_id, "curl": doc_id, "list": "invalid_json"}
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
