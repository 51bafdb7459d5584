"""Groups, collections and modes that do not belong together, with real Kafka and Milvus."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.structs import OffsetAndMetadata

from consumers.kafka import forget_group
from consumers.wiring.connections import kafka_settings
from tests.support.milvus import milvus_client
from tests.support.names import unique
from tests.support.rigs.site import Site, topics, write_config

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]
COUNT, PARTITIONS = 12, 2
ONCE = ("ingest", "--until-caught-up")


def made(kafka: str, milvus: str, folder: Path) -> Iterator[Site]:
    name = unique("fills")
    site = Site(name, write_config(folder / "config.yaml", name, kafka, milvus), kafka, milvus)
    with topics(site, PARTITIONS):
        publish(site, 0)
        yield site


@pytest.fixture
def full(kafka_bootstrap: str, milvus_uri: str, tmp_path: Path) -> Iterator[Site]:
    yield from made(kafka_bootstrap, milvus_uri, tmp_path)


@pytest.fixture
def lite(kafka_bootstrap: str, milvus_lite_uri: str, tmp_path: Path) -> Iterator[Site]:
    yield from made(kafka_bootstrap, milvus_lite_uri, tmp_path)


def publish(site: Site, first: int) -> None:
    producer = Producer({"bootstrap.servers": site.kafka})
    for number in range(first, first + COUNT):
        body = {"id": f"d{number}", "text": f"text {number}", "event_time": "2026-11-22T10:00:00Z"}
        producer.produce(site.name, key=b"k", value=json.dumps(body).encode(), partition=number % PARTITIONS)
    assert producer.flush(20) == 0


def collection(site: Site) -> str:
    return site.settings().milvus.collection


def ids(site: Site, name: str) -> list[str]:
    with closing(milvus_client(site.milvus)) as client:
        rows = client.query(name, filter='id != ""', output_fields=["doc_id"], consistency_level="Strong", limit=1000)
    return sorted(row["doc_id"] for row in rows)


def documents(count: int) -> list[str]:
    return sorted(f"d{number}" for number in range(count))


def commits(site: Site) -> dict[int, tuple[int, list[str]]]:
    with closing(KafkaAdminClient(bootstrap_servers=site.kafka)) as admin:
        found = admin.list_group_offsets({site.name: None})[site.name]
    return {tp.partition: (commit.offset, (commit.metadata or "").split(";")) for tp, commit in found.items()}


def identity(site: Site, name: str) -> Any:
    return json.loads(site.command("collections info", name, "--json").stdout)


def test_a_group_goes_on_only_in_its_own_collection(full: Site) -> None:
    name, other = collection(full), f"{collection(full)}_other"
    full.command(*ONCE)
    first = identity(full, name)
    assert (first["mode"], first["groups"]) == ("upsert", {full.name: [full.name]})
    assert {text[2] for _, text in commits(full).values()} == {first["id"]}

    moved = ("--set", f"milvus.collection={other}")
    assert "--adopt" in full.command(*ONCE, *moved, code=4).stderr
    examined = json.loads(full.command("doctor", "--json", *moved, code=5).stdout)
    assert "kafka.collection" in {one["check"] for one in examined if one["level"] == "problem"}
    full.command(*ONCE, *moved, "--set", f"kafka.group_id={full.name}-new")
    assert ids(full, other) == documents(COUNT), "a new group reads everything"

    full.command("collections drop", name, "--yes")
    publish(full, COUNT)
    assert "another collection" in full.command(*ONCE, code=4).stderr
    full.command(*ONCE, "--adopt")
    second = identity(full, name)
    assert second["id"] != first["id"]
    assert {text[2] for _, text in commits(full).values()} == {second["id"]}
    assert set(ids(full, name)) == set(documents(2 * COUNT)) - set(documents(COUNT)), "what was asked for"
    full.command(*ONCE)


def test_another_group_fills_it_only_when_adopted_with_topics_of_its_own(full: Site) -> None:
    full.command(*ONCE)
    second = ("--set", f"kafka.group_id={full.name}-second")
    assert "does not fill it" in full.command(*ONCE, *second, code=4).stderr
    assert "does not fill it" in full.command("audit", *second, code=4).stderr
    full.command(*ONCE, *second, "--adopt")  # takes over: the first group has no members
    assert "does not fill it" in full.command(*ONCE, code=4).stderr
    assert list(identity(full, collection(full))["groups"]) == [f"{full.name}-second"]
    assert ids(full, collection(full)) == documents(COUNT)


def test_commits_of_a_former_version_are_understood_and_bound(full: Site) -> None:
    full.command(*ONCE)
    bound = commits(full)
    with closing(KafkaAdminClient(bootstrap_servers=full.kafka)) as admin:
        former = {
            TopicPartition(full.name, number): OffsetAndMetadata(offset, text[1], -1)
            for number, (offset, text) in bound.items()
        }
        admin.alter_group_offsets(full.name, former)
    full.command(*ONCE)
    assert commits(full) == bound, "also where nothing new was read"


@pytest.mark.parametrize("server", ["full", "lite"])
def test_append_and_upsert_are_reported_apart(server: str, request: pytest.FixtureRequest) -> None:
    site: Site = request.getfixturevalue(server)
    append, upsert = ("--set", "mode=append"), ("--set", "mode=upsert")
    site.command(*ONCE, *append)
    assert "mode is 'append' there and 'upsert' here" in site.command(*ONCE, *upsert, code=4).stderr
    audited = json.loads(site.command("audit", "--json", *append).stdout)
    assert (audited["clean"], audited["rows"]) == (True, COUNT)
    examined = json.loads(site.command("doctor", "--json", *append).stdout)
    assert not [one for one in examined if one["check"] == "milvus.ledger"]
    assert [one["level"] for one in examined if one["check"] == "milvus.stamp"] == ["ok"]
    examined = json.loads(site.command("doctor", "--json", *upsert, code=5).stdout)
    assert [one["level"] for one in examined if one["check"] == "milvus.stamp"] == ["problem"]
    status = json.loads(site.command("status", "--json", *upsert).stdout)
    assert (status["milvus"]["mode"], status["milvus"]["documents"]) == ("append", None)
    assert any("filled in mode append" in warning for warning in status["warnings"])
    listed = json.loads(site.command("collections list", "--json").stdout)
    assert {one["name"]: one["mode"] for one in listed}[collection(site)] == "append"


@pytest.mark.parametrize("server", ["full", "lite"])
def test_records_of_a_recreated_topic_are_appended_beside_those_of_the_old_one(
    server: str, request: pytest.FixtureRequest
) -> None:
    site: Site = request.getfixturevalue(server)
    append = ("--set", "mode=append")
    site.command(*ONCE, *append)
    with closing(KafkaAdminClient(bootstrap_servers=site.kafka)) as admin:
        admin.delete_topics([site.name])
        forget_group(kafka_settings(site.settings()), site.name)
        admin.create_topics(
            {site.name: {"num_partitions": PARTITIONS, "replication_factor": 1}}, wait_for_metadata=True
        )
    publish(site, COUNT)
    site.command(*ONCE, *append, "--accept-gap")
    assert ids(site, collection(site)) == documents(2 * COUNT)
    audited = json.loads(site.command("audit", "--json", *append).stdout)
    assert (audited["clean"], audited["rows"]) == (True, 2 * COUNT)
