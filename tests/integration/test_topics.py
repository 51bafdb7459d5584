"""`topics create` and `topics list`, and `init --create-topic`, on a real broker."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

pytestmark = pytest.mark.servers


def command(kafka: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "consumers.cli", *arguments]
    if arguments[0] == "topics":
        words += ["--set", f"kafka.bootstrap_servers={kafka}"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_topics_are_made_once_and_listed(kafka_bootstrap: str, unique_name: Callable[..., str], tmp_path: Path) -> None:
    first, second = unique_name("made"), unique_name("by-init")
    try:
        made = command(kafka_bootstrap, "topics", "create", first, "--partitions", "3", "--json")
        assert json.loads(made.stdout) == [{"topic": first, "partitions": 3, "created": True}], made.stderr
        again = command(kafka_bootstrap, "topics", "create", first, "--partitions", "3", "--json")
        assert json.loads(again.stdout) == [{"topic": first, "partitions": 3, "created": False}]
        other = command(kafka_bootstrap, "topics", "create", first, "--partitions", "4")
        assert other.returncode == 2
        assert f"topic {first} exists with 3 Kafka partitions" in other.stderr

        file = str(tmp_path / "settings.yaml")
        options = ["--bootstrap", kafka_bootstrap, "--topic", second, "--create-topic", "--partitions", "2"]
        assert command(kafka_bootstrap, "init", file, *options).returncode == 0

        listed = command(kafka_bootstrap, "topics", "list", "--json", "-c", file)
        found = {each["topic"]: each for each in json.loads(listed.stdout)}
        assert found[first] == {"topic": first, "partitions": 3, "records": 0, "read": False}
        assert found[second] == {"topic": second, "partitions": 2, "records": 0, "read": True}
        assert not [name for name in found if name.startswith("__")]
    finally:
        with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin:
            admin.delete_topics([name for name in (first, second) if name in admin.list_topics()])


def test_a_name_that_kafka_refuses_is_named(kafka_bootstrap: str) -> None:
    done = command(kafka_bootstrap, "topics", "create", "bad name")
    assert done.returncode == 2
    assert done.stderr == "milvus-stream: topic 'bad name': write letters, digits, dots, _ and -, at most 249\n"
