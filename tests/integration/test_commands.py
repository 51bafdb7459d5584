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
from confluent_kafka import Producer
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.structs import OffsetAndMetadata

from consumers.cli import status
from consumers.cli.collections import dropping, listing
from consumers.cli.dlq import reading as dead_letters
from consumers.cli.doctor import run as doctor
from consumers.wiring.pipeline_state import PipelineReader
from pipeline.errors import NotFound, UsageError
from pipeline.store import connect
from tests.support.names import unique
from tests.support.rigs.site import Site, topics, write_config
from tests.support.stores import make_store

pytestmark = pytest.mark.servers
SCRIPT = Path(sys.executable).parent / "milvus-stream"
DOCUMENTS, POISON, LATER = 60, 3, 7
CONTROL = b'{"id": "ctl\x1b[2J'
NOT_TEXT = b"\xff\xfe{"


class ScriptSite(Site):
    """A topic that was ingested once, with seven records published after that."""

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        """The console script, not on a terminal."""
        line = [str(SCRIPT), *command.split(), "-c", str(self.config), *arguments]
        return subprocess.Popen(
            line, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def together(self, *lines: tuple[str, ...]) -> list["Done"]:
        """Run several commands at a time; most of each is the start of Python."""
        processes = [self.start(*line) for line in lines]
        try:
            outputs = [process.communicate(timeout=120) for process in processes]
        finally:
            for process in processes:
                process.kill()
        return [Done(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert "Traceback" not in self.err
        return json.loads(self.out)


@pytest.fixture(scope="module")
def site(kafka_bootstrap: str, milvus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptSite]:
    name = unique("cmd")
    sections = {"embedding": {"model": "hash:32"}, "telemetry": {"log_level": "warning"}}
    config = write_config(tmp_path_factory.mktemp(name) / "config.yaml", name, kafka_bootstrap, milvus_uri, sections)
    site = ScriptSite(name, config, kafka_bootstrap, milvus_uri)
    with topics(site, 2):
        _publish(kafka_bootstrap, name, range(DOCUMENTS), [CONTROL, NOT_TEXT, b'{"id": "x"}'])
        (ingested,) = site.together(("ingest", "--until-caught-up"))
        assert ingested.code == 0, ingested.err
        _publish(kafka_bootstrap, name, range(LATER), [])
        yield site


def _publish(kafka: str, topic: str, numbers: range, poison: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": kafka})
    for number in numbers:
        day = 20 + number % 3
        body = {"id": f"doc-{number}", "text": f"text number {number}", "event_time": f"2026-11-{day}T10:00:00Z"}
        producer.produce(topic, key=body["id"].encode(), value=json.dumps(body).encode(), partition=number % 2)
    for value in poison:
        producer.produce(topic, key=b"bad", value=value, partition=0)
    assert producer.flush(20) == 0


def test_the_page_of_the_query_worker_reads_the_pipeline(site: ScriptSite) -> None:
    settings = site.settings()
    with closing(connect(site.milvus)) as api:
        reader = PipelineReader(settings, api)
        state = reader.read()
        assert [(one.topic, one.partition, one.end - (one.committed or 0)) for one in state.kafka_partitions] == [
            (site.name, number, sum(each % 2 == number for each in range(LATER))) for number in range(2)
        ]
        assert sum(state.dead_letters.values()) == len(state.samples) == POISON
        assert all("\x1b" not in sample.record for sample in state.samples)
        assert state.last_flush_ms is not None
        assert state.workers == [], "the worker has ended"
        assert reader.read().records_per_s == 0.0


def test_the_script_answers_on_stdout_and_by_its_exit_code(site: ScriptSite) -> None:
    told, people, examined, letters, undecided = site.together(
        ("status", "--json"),
        ("status",),
        ("doctor", "--json"),
        ("dlq list", "--json", "--limit", "2"),
        ("collections drop", site.name),
    )
    assert [one.code for one in (told, people, examined, letters)] == [0] * 4
    _expect_status(site, told.json)
    assert people.out.startswith("! NO MODEL: vectors of hash:32")
    assert "60 rows of 60 documents in 3 Milvus partitions" in people.out
    assert "model.loaded" not in people.err
    noted = {one["check"] for one in examined.json if one["level"] != "ok"}
    noted -= {"milvus.version"}  # a warning about servers that lose deletes
    assert noted == {"records.decode", "records.keys", "model"}  # one bad record has an id, and another key
    assert [one["position"] for one in letters.json] == ["0/2", "0/1"]
    assert (undecided.code, undecided.out) == (2, "")
    assert "--yes" in undecided.err


def _expect_status(site: ScriptSite, report: dict[str, Any]) -> None:
    assert report["kafka"]["lag"] == LATER
    partitions = {one["partition"]: one for one in report["kafka"]["partitions"]}
    assert [(partitions[n]["committed"], partitions[n]["end"], partitions[n]["lag"]) for n in (0, 1)] == [
        (33, 37, 4),
        (30, 33, 3),
    ]
    assert all(0 <= one["age_s"] < 600 for one in partitions.values())
    assert report["dead_letters"] == {"error": None, "topic": f"{site.name}.dlq", "exists": True, "count": POISON}
    milvus = report["milvus"]
    assert (milvus["rows"], milvus["documents"], milvus["error"]) == (DOCUMENTS, DOCUMENTS, None)
    assert [(one["name"], one["rows"], one["loaded"]) for one in milvus["partitions"]] == [
        (f"d202611{day}", 20, True) for day in (20, 21, 22)
    ]
    assert report["model"]["stored"]["name"] == "hash:32"
    assert report["mode"] == "upsert"


def test_the_script_where_servers_are_away_or_something_is_wrong(site: ScriptSite) -> None:
    no_kafka = ("--set", "kafka.bootstrap_servers=127.0.0.1:1", "--set", "kafka.bootstrap_timeout_ms=1500")
    no_milvus = ("--set", "milvus.uri=http://127.0.0.1:1")
    half, other_half, examined, mismatch, position = site.together(
        ("status", "--json", *no_kafka),
        ("status", "--json", *no_milvus),
        ("doctor", "--json", *no_kafka, *no_milvus),
        ("doctor", "--set", "embedding.model=hash:16"),
        ("dlq show", "nonsense"),
    )
    assert [one.code for one in (half, other_half, examined, mismatch, position)] == [3, 3, 3, 5, 2]
    assert "127.0.0.1:1" in half.json["kafka"]["error"]["message"]
    assert (half.json["kafka"]["lag"], half.json["milvus"]["rows"]) == (None, DOCUMENTS)
    assert "127.0.0.1:1" in other_half.json["milvus"]["error"]["message"]
    assert (other_half.json["kafka"]["lag"], other_half.json["milvus"]["rows"]) == (LATER, None)
    assert [one["check"] for one in examined.json if one["unreachable"]] == ["kafka.reachable", "milvus.reachable"]
    assert [one["check"] for one in examined.json if not one["unreachable"]] == ["model"]
    assert [line.split()[1] for line in mismatch.out.splitlines() if line.startswith("PROBLEM")] == [
        "milvus.collection"
    ]
    assert "PARTITION/OFFSET" in position.err


def test_what_becomes_of_the_newest_records_of_a_topic(site: ScriptSite) -> None:
    done = site.together(("config test", "--topic", site.name, "--last", "500", "--json"))[0]
    assert (done.code, "Traceback" in done.err) == (5, False)
    verdicts = [json.loads(line) for line in done.out.splitlines()]
    assert len(verdicts) == DOCUMENTS + POISON + LATER
    assert sum(one["operation"] == "reject" for one in verdicts) == POISON
    assert all(one["chunks"] and one["partition"].startswith("d") for one in verdicts if one["operation"] == "store")
    missing = site.together(("config test", "--topic", site.name + "x"))[0]
    assert (missing.code, site.name in missing.err) == (2, True)


def test_status_before_anything_was_ingested(site: ScriptSite) -> None:
    other = unique("none")
    report = status.collect(
        site.settings(f"milvus.collection={other}", f"kafka.group_id={other}", f"kafka.dead_letter_topic={other}")
    )
    assert status.exit_code(report) == 0
    assert report["milvus"]["exists"] is False
    assert report["dead_letters"] == {"error": None, "topic": other, "exists": False, "count": 0}
    assert report["kafka"]["lag"] == DOCUMENTS + POISON + LATER
    assert {one["committed"] for one in report["kafka"]["partitions"]} == {None}


def test_doctor_makes_every_check(site: ScriptSite) -> None:
    found = {one.check: one for one in doctor.examine(site.settings())}
    assert "3 of the newest" in found["records.decode"].seen
    assert "ctl" not in found["records.decode"].seen  # nothing of a record's text
    assert {"kafka.reachable", "kafka.group", "kafka.message_size", "records.keys", "records.size"} <= found.keys()
    assert {"clock.kafka", "clock.milvus", "milvus.collection", "milvus.ledger", "milvus.index"} <= found.keys()


def test_doctor_finds_what_no_record_has_and_topics_that_are_not_there(site: ScriptSite) -> None:
    found = doctor.examine(site.settings("record.text_field=body"))
    assert [one.check for one in found if one.level == "problem"] == ["records.decode"]
    found = doctor.examine(site.settings(f"kafka.topics={site.name}x"))
    assert [(one.check, site.name in one.seen) for one in found if one.level == "problem"] == [("kafka.topics", True)]
    assert doctor.exit_code(found) == 5


def test_doctor_sees_records_without_id_or_key_and_limits(site: ScriptSite) -> None:
    topic, letters = unique("nokey"), unique("small")
    large = {"max.message.bytes": "4000000"}
    small = {"max.message.bytes": "1000", "retention.ms": "60000", "cleanup.policy": "compact"}
    soon = time.time_ns() // 1_000_000 + 120_000
    with closing(KafkaAdminClient(bootstrap_servers=site.kafka)) as admin:
        specs = {
            topic: {"num_partitions": 2, "replication_factor": 1, "configs": large},
            letters: {"num_partitions": 1, "replication_factor": 1, "configs": small},
        }
        admin.create_topics(specs, wait_for_metadata=True)
        try:
            producer = Producer({"bootstrap.servers": site.kafka})
            producer.produce(topic, value=b'{"text": "nobody knows me"}', partition=0)
            producer.produce(topic, value=b'{"id": 1, "text": "early"}', partition=1, timestamp=soon)
            assert producer.flush(20) == 0
            sets = (f"kafka.topics={topic}", f"kafka.dead_letter_topic={letters}", f"kafka.group_id={topic}")
            found = doctor.examine(site.settings(*sets))
        finally:
            admin.delete_topics([topic, letters])
    levels = [(one.check, one.level) for one in found]
    assert ("records.keys", "problem") in levels
    assert ("records.keys", "warning") in levels  # two Kafka partitions and no keys: nothing orders versions
    assert ("kafka.message_size", "warning") in levels
    assert ("clock.kafka", "warning") in levels
    levels_of_topic = [one.level for one in found if one.check == "kafka.dead_letters"]
    assert sorted(levels_of_topic) == ["ok", "problem", "warning", "warning"]


@pytest.mark.parametrize(
    ("keys", "seen"),
    [
        (((b"1", 0), (b"1", 1)), 'for instance "1" in 0 and 1'),
        (((b"user", 0), (b"user", 0)), "have another key than the id"),
        (((b"1", 0), (b"1", 0)), "is in one Kafka partition"),
    ],
)
def test_doctor_sees_documents_in_several_kafka_partitions(
    site: ScriptSite, keys: tuple[tuple[bytes, int], ...], seen: str
) -> None:
    topic = unique("keys")
    with closing(KafkaAdminClient(bootstrap_servers=site.kafka)) as admin:
        admin.create_topics({topic: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
        try:
            producer = Producer({"bootstrap.servers": site.kafka})
            for key, partition in keys:
                producer.produce(topic, key=key, value=b'{"id": 1, "text": "a version"}', partition=partition)
            assert producer.flush(20) == 0
            found = doctor.examine(site.settings(f"kafka.topics={topic}", f"kafka.group_id={topic}"))
        finally:
            admin.delete_topics([topic])
    (keyed,) = (one for one in found if one.check == "records.keys")
    assert seen in keyed.seen
    assert (keyed.level == "ok") == ("rekey" not in (keyed.do or ""))


def test_offsets_that_are_gone_are_a_problem_and_a_warning(site: ScriptSite) -> None:
    topic = unique("gone")
    with closing(KafkaAdminClient(bootstrap_servers=site.kafka)) as admin:
        admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
        try:
            _publish(site.kafka, topic, range(0, 10, 2), [])
            admin.alter_group_offsets(topic, {TopicPartition(topic, 0): OffsetAndMetadata(2, "", -1)})
            admin.delete_records({TopicPartition(topic, 0): 4})
            names = (f"kafka.topics={topic}", f"kafka.group_id={topic}", f"milvus.collection={topic}")
            settings = site.settings(*names)
            found, report = doctor.examine(settings), status.collect(settings)
        finally:
            admin.delete_topics([topic])
            admin.delete_groups([topic])
    assert [one.check for one in found if one.level == "problem"] == ["kafka.offsets"]
    assert any("is at offset 2, but the topic holds 4 to 5" in warning for warning in report["warnings"])
    assert report["kafka"]["lag"] == 1


def test_dead_letters_are_listed_newest_first_and_shown_whole(
    site: ScriptSite, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = site.settings()
    letters = [one.as_dict(with_value=False) for one in dead_letters.newest(settings, 20, None)]
    assert [one["position"] for one in letters] == ["0/2", "0/1", "0/0"]
    assert {(one["topic"], one["partition"], one["offset"]) for one in letters} == {
        (site.name, 0, offset) for offset in (30, 31, 32)
    }
    places = {one["reason"]: one["position"] for one in letters}
    assert places.keys() == {"invalid_json", "invalid_utf8", "missing_text"}
    only = dead_letters.newest(settings, 20, "missing_text")
    assert [one.position for one in only] == [places["missing_text"]]
    shown = dead_letters.one(settings, places["missing_text"]).as_dict(with_value=True)
    assert (shown["key"], shown["value"]) == ("bad", '{"id": "x"}')
    binary = dead_letters.one(settings, places["invalid_utf8"]).as_dict(with_value=True)
    assert binary["value"] == {"base64": "//57"}
    dead_letters.show_one(dead_letters.one(settings, places["invalid_json"]))
    printed = capsys.readouterr().out
    assert '{"id": "ctl\\u001b[2J' in printed
    assert "\x1b" not in printed


def test_dead_letters_that_are_not_there(site: ScriptSite, capsys: pytest.CaptureFixture[str]) -> None:
    settings = site.settings()
    assert dead_letters.newest(settings, 20, "no_such") == []
    assert "missing_text (1)" in capsys.readouterr().err
    with pytest.raises(NotFound, match="holds offsets 0 to 2"):
        dead_letters.one(settings, "0/99")
    with pytest.raises(NotFound, match="no Kafka partition 7"):
        dead_letters.one(settings, "7/0")
    with pytest.raises(UsageError, match=f"Did you mean {site.name}.dlq"):
        dead_letters.newest(site.settings(f"kafka.dead_letter_topic={site.name}.dql"), 20, None)


def test_collections_on_a_real_server(site: ScriptSite) -> None:
    mine = [one for one in listing.list_all(site.settings()) if one["name"] == site.name]
    assert [(one["rows"], one["model"], one["ledger"], one["configured"]) for one in mine] == [
        (DOCUMENTS, "hash:32", f"{site.name}__ledger", True)
    ]
    info = listing.info(site.settings(), site.name)
    assert {one["name"]: one["dimension"] for one in info["fields"]}["vector"] == 32
    assert (info["rows"], info["documents"]) == (DOCUMENTS, DOCUMENTS)
    assert set(info["indexes"]["vector"]) == {"type", "metric", "params", "indexed_rows", "pending_rows"}
    with pytest.raises(NotFound, match=f"did you mean {site.name}"):
        listing.info(site.settings(), f"{site.name}x")


def test_a_dry_run_says_that_the_group_will_not_read_again(
    site: ScriptSite, capsys: pytest.CaptureFixture[str]
) -> None:
    dropping.drop(site.settings(), site.name, dry_run=True, yes=False)
    captured = capsys.readouterr()
    assert f"would drop collection {site.name}" in captured.out
    assert "60 rows in 3 partitions" in captured.out
    assert f"group {site.name} has committed offsets on {site.name}" in captured.err
    assert "--reset-offsets" in captured.err


@pytest.mark.parametrize("server", ["milvus_uri", "milvus_lite_uri"])
def test_drop_removes_all_three_and_nothing_else(server: str, site: ScriptSite, request: pytest.FixtureRequest) -> None:
    uri: str = request.getfixturevalue(server)
    name = unique("drop")
    settings = site.settings(f"milvus.uri={uri}")
    with closing(connect(uri)) as api:
        others = [one for one in api.collections() if one.startswith(site.name)]
        try:
            make_store(api, name)
            rows = [one for one in listing.list_all(settings) if one["name"] == name]
            assert [(one["rows"], one["ledger"]) for one in rows] == [(0, f"{name}__ledger")]
            assert [one["name"] for one in listing.info(settings, name)["partitions"]] == ["_default"]
            dropping.drop(settings, name, dry_run=False, yes=True)
            present = set(api.collections())
        finally:
            for left in (name, f"{name}__ledger", f"{name}__marks"):
                api.drop_collection(left)
    assert {name, f"{name}__ledger", f"{name}__marks"}.isdisjoint(present)
    assert present.issuperset(others)
