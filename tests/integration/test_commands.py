"""The looking commands as users run them: the console script against real Kafka and Milvus, after a real ingest."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import Producer
from kafka.admin import KafkaAdminClient
from pymilvus import MilvusClient

from tests.support.names import unique

pytestmark = pytest.mark.servers
SCRIPT = Path(sys.executable).parent / "milvus-stream"
DOCUMENTS, POISON, LATER = 60, 3, 7
CONTROL = b'{"id": "ctl\x1b[2J'
NOT_TEXT = b"\xff\xfe{"


@dataclass(frozen=True)
class Site:
    """A topic that was ingested once, with seven records published after that."""

    name: str
    config: Path
    kafka: str

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the console script without a terminal; fails unless it ends with this code."""
        command = [str(SCRIPT), *arguments[:2], "-c", str(self.config), *arguments[2:]]
        if len(arguments) == 1 or arguments[1].startswith("-"):
            command = [str(SCRIPT), arguments[0], "-c", str(self.config), *arguments[1:]]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)


@pytest.fixture(scope="module")
def site(kafka_bootstrap: str, milvus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    name = unique("cmd")
    config = tmp_path_factory.mktemp(name) / "config.yaml"
    values = {
        "kafka": {
            "bootstrap_servers": kafka_bootstrap,
            "topics": [name],
            "group_id": name,
            "dead_letter_topic": f"{name}.dlq",
            "session_timeout": "6s",
        },
        "milvus": {"uri": milvus_uri, "collection": name, "flush_interval": "1s"},
        "embedding": {"model": "hash:32"},
        "telemetry": {"port": 0, "log_level": "warning"},
    }
    config.write_text(yaml.safe_dump(values))
    site = Site(name, config, kafka_bootstrap)
    with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin:
        admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
        try:
            _publish(kafka_bootstrap, name, range(DOCUMENTS), [CONTROL, NOT_TEXT, b'{"id": "x"}'])
            site.run("ingest", "--until-caught-up")
            _publish(kafka_bootstrap, name, range(LATER), [])
            yield site
        finally:
            admin.delete_topics([topic for topic in (name, f"{name}.dlq") if topic in admin.list_topics()])
            admin.delete_groups([name])
            with closing(MilvusClient(milvus_uri)) as client:
                for collection in (f"{name}__ledger", name):
                    client.drop_collection(collection)


def _publish(kafka: str, topic: str, numbers: range, poison: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": kafka})
    for number in numbers:
        day = 20 + number % 3
        body = {"id": f"doc-{number}", "text": f"text number {number}", "event_time": f"2026-11-{day}T10:00:00Z"}
        producer.produce(topic, key=body["id"].encode(), value=json.dumps(body).encode(), partition=number % 2)
    for value in poison:
        producer.produce(topic, key=b"bad", value=value, partition=0)
    assert producer.flush(20) == 0


def test_status_counts_lag_rows_and_letters(site: Site) -> None:
    report = site.json("status")
    assert report["kafka"]["lag"] == LATER
    partitions = {one["partition"]: one for one in report["kafka"]["partitions"]}
    assert [(partitions[n]["committed"], partitions[n]["end"], partitions[n]["lag"]) for n in (0, 1)] == [
        (33, 37, 4),
        (30, 33, 3),
    ]
    assert all(0 <= one["age_s"] < 600 for one in partitions.values())
    assert report["dead_letters"] == {"error": None, "topic": f"{site.name}.dlq", "exists": True, "letters": POISON}
    milvus = report["milvus"]
    assert (milvus["rows"], milvus["documents"], milvus["error"]) == (DOCUMENTS, DOCUMENTS, None)
    assert [(one["name"], one["rows"], one["loaded"]) for one in milvus["partitions"]] == [
        (f"d202611{day}", 20, True) for day in (20, 21, 22)
    ]
    assert report["model"]["stored"]["name"] == "hash:32"
    assert report["mode"] == "upsert"
    assert "NO MODEL" in report["warnings"][0]


def test_status_for_people_loads_no_model_and_shouts_about_hash(site: Site) -> None:
    done = site.run("status")
    assert done.stdout.startswith("! NO MODEL: vectors of hash:32")
    assert "lag 7" in done.stdout
    assert "60 rows of 60 documents in 3 Milvus partitions" in done.stdout
    assert "model.loaded" not in done.stderr


@pytest.mark.parametrize(
    ("away", "sound"), [("kafka.bootstrap_servers=127.0.0.1:1", "milvus"), ("milvus.uri=http://127.0.0.1:1", "kafka")]
)
def test_status_reports_the_other_half(site: Site, away: str, sound: str) -> None:
    options = ["--set", away, "--set", "kafka.bootstrap_timeout_ms=1500"]
    report = site.json("status", *options, code=3)
    failed = "kafka" if sound == "milvus" else "milvus"
    assert "127.0.0.1:1" in report[failed]["error"]["message"]
    assert report[sound]["error"] is None
    assert report["kafka"]["lag"] == (LATER if sound == "kafka" else None)
    assert report["milvus"]["rows"] == (DOCUMENTS if sound == "milvus" else None)


def test_status_before_anything_was_ingested(site: Site) -> None:
    other = unique("none")
    settings = [f"milvus.collection={other}", f"kafka.group_id={other}", f"kafka.dead_letter_topic={other}"]
    report = site.json("status", *(part for setting in settings for part in ("--set", setting)))
    assert report["milvus"]["exists"] is False
    assert report["dead_letters"] == {"error": None, "topic": other, "exists": False, "letters": 0}
    assert report["kafka"]["lag"] == DOCUMENTS + POISON + LATER
    assert {one["committed"] for one in report["kafka"]["partitions"]} == {None}


def test_doctor_on_a_sound_installation(site: Site) -> None:
    found = {one["check"]: one for one in site.json("doctor")}
    assert {name for name, one in found.items() if one["level"] != "ok"} == {"records.decode", "model"}
    assert "3 of the newest" in found["records.decode"]["seen"]
    assert "ctl" not in found["records.decode"]["seen"]
    assert {"kafka.reachable", "kafka.group", "kafka.message_size", "records.keys", "records.size"} <= found.keys()
    assert {"clock.kafka", "clock.milvus", "milvus.collection", "milvus.ledger", "milvus.index"} <= found.keys()


def test_doctor_finds_problems(site: Site) -> None:
    wrong = ["embedding.model=hash:16", "record.id_field=uuid", "record.text_field=body"]
    done = site.run("doctor", *(part for setting in wrong for part in ("--set", setting)), code=5)
    problems = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("PROBLEM")]
    assert problems == ["records.decode", "milvus.collection"]
    assert "missing_text" in done.stdout
    missing = site.json("doctor", "--set", f"kafka.topics={site.name}x", code=5)
    assert [(one["check"], site.name in one["seen"]) for one in missing if one["level"] == "problem"] == [
        ("kafka.topics", True)
    ]


def test_doctor_sees_records_without_id_or_key_and_limits(site: Site, kafka_bootstrap: str) -> None:
    topic, letters = unique("nokey"), unique("small")
    with closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin:
        large, small = {"max.message.bytes": "4000000"}, {"max.message.bytes": "1000", "retention.ms": "60000"}
        admin.create_topics(
            {
                topic: {"num_partitions": 2, "replication_factor": 1, "configs": large},
                letters: {
                    "num_partitions": 1,
                    "replication_factor": 1,
                    "configs": {**small, "cleanup.policy": "compact"},
                },
            },
            wait_for_metadata=True,
        )
        try:
            producer = Producer({"bootstrap.servers": kafka_bootstrap})
            producer.produce(topic, value=b'{"text": "nobody knows me"}', partition=0)
            producer.produce(topic, value=b'{"id": 1, "text": "late"}', partition=1, timestamp=_soon())
            assert producer.flush(20) == 0
            options = ["--set", f"kafka.topics={topic}", "--set", f"kafka.dead_letter_topic={letters}"]
            found = site.json("doctor", *options, "--set", f"kafka.group_id={topic}", code=5)
        finally:
            admin.delete_topics([topic, letters])
    levels = [(one["check"], one["level"]) for one in found if one["check"].startswith(("k", "r", "c"))]
    assert ("records.keys", "problem") in levels
    assert ("records.keys", "warning") in levels  # two Kafka partitions and no keys: nothing orders versions
    assert ("kafka.message_size", "warning") in levels
    assert ("clock.kafka", "warning") in levels
    told = [(one["level"], one["seen"]) for one in found if one["check"] == "kafka.dead_letters"]
    assert [level for level, _ in told] == ["problem", "warning", "warning", "ok"], told


def _soon() -> int:
    return time.time_ns() // 1_000_000 + 120_000


def test_doctor_without_servers(site: Site) -> None:
    options = ["--set", "kafka.bootstrap_servers=127.0.0.1:1", "--set", "kafka.bootstrap_timeout_ms=1500"]
    found = site.json("doctor", *options, "--set", "milvus.uri=http://127.0.0.1:1", code=3)
    assert [one["check"] for one in found if one["unreachable"]] == ["kafka.reachable", "milvus.reachable"]
    assert [one["check"] for one in found if not one["unreachable"]] == ["model"]


def test_dead_letters_are_listed_newest_first_and_shown_whole(site: Site) -> None:
    letters = site.json("dlq", "list")
    assert [one["position"] for one in letters] == ["0/2", "0/1", "0/0"]
    assert {(one["topic"], one["partition"]) for one in letters} == {(site.name, 0)}
    assert {one["offset"] for one in letters} == {30, 31, 32}
    reasons = {one["reason"] for one in letters}
    assert {"invalid_json", "invalid_utf8", "missing_text"} == reasons
    assert len(site.json("dlq", "list", "--limit", "2")) == 2
    only = site.json("dlq", "list", "--reason", "missing_text")
    assert [one["reason"] for one in only] == ["missing_text"]
    shown = site.json("dlq", "show", only[0]["position"])
    assert (shown["key"], shown["value"]) == ("bad", '{"id": "x"}')
    binary = next(one["position"] for one in letters if one["reason"] == "invalid_utf8")
    assert site.json("dlq", "show", binary)["value"] == {"base64": "//57"}
    control = next(one["position"] for one in letters if one["reason"] == "invalid_json")
    printed = site.run("dlq", "show", control).stdout
    assert '{"id": "ctl\\x1b[2J' in printed
    assert "\x1b" not in printed
    none = site.run("dlq", "list", "--reason", "no_such")
    assert none.stdout == ""
    assert "missing_text (1)" in none.stderr


def test_wrong_positions_and_topics(site: Site) -> None:
    assert "PARTITION/OFFSET" in site.run("dlq", "show", "nonsense", code=2).stderr
    assert "holds offsets 0 to 2" in site.run("dlq", "show", "0/99", code=1).stderr
    assert "no Kafka partition 7" in site.run("dlq", "show", "7/0", code=1).stderr
    done = site.run("dlq", "list", "--set", f"kafka.dead_letter_topic={site.name}.dql", code=2)
    assert f"Did you mean {site.name}.dlq" in done.stderr


def test_collections(site: Site) -> None:
    mine = [one for one in site.json("collections", "list") if one["name"] == site.name]
    assert [(one["rows"], one["model"], one["ledger"], one["configured"]) for one in mine] == [
        (DOCUMENTS, "hash:32", f"{site.name}__ledger", True)
    ]
    info = site.json("collections", "info")
    assert {one["name"]: one["dimension"] for one in info["fields"]}["vector"] == 32
    assert (info["rows"], info["documents"]) == (DOCUMENTS, DOCUMENTS)
    assert set(info["indexes"]["vector"]) == {"type", "metric", "params", "indexed_rows", "pending_rows"}
    assert f"did you mean {site.name}" in site.run("collections", "info", f"{site.name}x", code=1).stderr


def test_drop_looks_asks_and_drops(site: Site, milvus_uri: str) -> None:
    """On a collection of its own, made by a second group from the same topic."""
    name = unique("drop")
    mine = ["--set", f"milvus.collection={name}", "--set", f"kafka.group_id={name}"]
    site.run("ingest", "--until-caught-up", *mine)
    with closing(KafkaAdminClient(bootstrap_servers=site.kafka)) as admin, closing(MilvusClient(milvus_uri)) as client:
        try:
            looked = site.run("collections", "drop", name, "--dry-run", *mine)
            assert f"would drop collection {name}" in looked.stdout
            assert "60 rows" in looked.stdout
            assert "--reset-offsets" in looked.stderr
            assert "--yes" in site.run("collections", "drop", name, *mine, code=2).stderr
            assert client.has_collection(name)
            assert site.run("collections", "drop", name, "--yes", *mine).stdout.split() == [
                "dropped",
                f"{name}__ledger",
                "dropped",
                name,
            ]
            assert not client.has_collection(name)
            assert not client.has_collection(f"{name}__ledger")
            assert client.has_collection(site.name)
        finally:
            client.drop_collection(f"{name}__ledger")
            client.drop_collection(name)
            admin.delete_groups([name])
