"""Reading one's own write on real servers: a record is found by the search that waits for it, or it is late."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml
from confluent_kafka import Producer
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.structs import OffsetAndMetadata

from consumers.kafka import GroupOffsets, KafkaSettings
from consumers.kafka.groups.commits import commit_text
from pipeline.errors import Unavailable, UsageError
from pipeline.records import CANARY_PREFIX
from tests.support.milvus import milvus_client
from tests.support.names import unique
from tests.support.processes import Running, running
from tests.support.rigs.site import Site, topics, write_config
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers
PARTITIONS = 2


@dataclass(frozen=True)
class Deployment:
    """An ingest worker and a query worker of one collection."""

    site: Site
    worker: Running
    client: httpx.Client

    def publish(self, doc_id: str, text: str) -> dict[str, Any]:
        """Publish a document; returns where its record is."""
        delivered: list[Any] = []
        producer = Producer({"bootstrap.servers": self.site.kafka})
        producer.produce(
            self.site.name,
            key=doc_id.encode(),
            value=json.dumps({"id": doc_id, "text": text}).encode(),
            on_delivery=lambda error, message: delivered.append(error or message),
        )
        assert producer.flush(20) == 0
        return {"topic": self.site.name, "partition": delivered[0].partition(), "offset": delivered[0].offset()}

    def search(self, text: str, *wait_for: dict[str, Any], **body: Any) -> httpx.Response:
        freshness = {"wait_for": list(wait_for), **body.pop("freshness", {})}
        # With hash:16 equal texts have equal vectors; words of other documents must not come first.
        request = {"query": text, "mode": "dense", "limit": 3, "freshness": freshness, "timeout_ms": 30_000, **body}
        return self.client.post("/v1/search", json=request)

    def metric(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0


def address(server: Running) -> str:
    def find() -> str:
        return next((line for line in server.errors().splitlines() if "query.listening" in line), "")

    return f"http://127.0.0.1:{yaml.safe_load(eventually(find, within=120, what='the query worker'))['port']}"


@pytest.fixture(scope="module", params=["milvus_uri", "milvus_lite_uri"])
def deployment(
    request: pytest.FixtureRequest, kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    name, uri = unique("fresh"), request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(name)
    sections = {
        # On the real server the commit must not be later than what is searchable anyway.
        "milvus": {"durability": "ack" if request.param == "milvus_uri" else "flush"},
        "batch": {"max_wait": "20ms"},
        "query": {"port": 0, "canary": "20s"},
        "partitioning": {"by": "year"},
    }
    site = Site(name, write_config(folder / "config.yaml", name, kafka_bootstrap, uri, sections), kafka_bootstrap, uri)
    with ExitStack() as stack:
        stack.enter_context(topics(site, PARTITIONS, {}))
        worker = stack.enter_context(running(site.arguments("ingest"), folder / "ingest.log"))
        server = stack.enter_context(running(site.arguments("serve"), folder / "serve.log"))
        client = stack.enter_context(httpx.Client(base_url=address(server), timeout=60))
        yield Deployment(site, worker, client)
        assert server.end(signal.SIGTERM) == 0, server.errors()[-2000:]


def test_what_was_published_is_found_by_the_search_that_waits_for_it(deployment: Deployment) -> None:
    for version in range(3):
        for number in range(2):
            doc_id, text = f"doc-{number}", f"text {number} in version {version}"
            record = deployment.publish(doc_id, text)
            response = deployment.search(text, record)
            assert response.status_code == 200, response.text
            answer = response.json()
            assert (answer["results"][0]["doc_id"], answer["results"][0]["text"]) == (doc_id, text)
            assert answer["results"][0]["source"] == record
            assert not [one for one in answer["results"] if one["doc_id"].startswith(CANARY_PREFIX)]


def test_a_worker_that_is_paused_makes_the_search_late(deployment: Deployment) -> None:
    first = deployment.publish("late", "before the pause")
    assert deployment.search("before", first).status_code == 200
    deployment.worker.process.send_signal(signal.SIGSTOP)
    try:
        record = deployment.publish("late", "while the worker is paused")
        response = deployment.search("paused", record, first, freshness={"timeout_ms": 300})
    finally:
        deployment.worker.process.send_signal(signal.SIGCONT)
    assert response.status_code == 503
    problem = response.json()
    assert problem["type"] == "urn:milvus-stream:problem:not-fresh"
    assert int(response.headers["retry-after"]) >= 1
    (behind,) = problem["behind"]
    assert {key: behind[key] for key in record} == record
    assert behind["committed"] <= record["offset"]
    assert behind["missing"] == record["offset"] + 1 - behind["committed"]
    assert deployment.search("while the worker is paused", record).json()["results"][0]["source"] == record


def test_what_does_not_exist_is_refused(deployment: Deployment) -> None:
    record = {"topic": deployment.site.name, "partition": PARTITIONS, "offset": 0}
    for wrong, at in ((record, "partition"), ({**record, "topic": "other"}, "topic")):
        response = deployment.search("q", wrong)
        assert (response.status_code, response.json()["at"]) == (422, f"/freshness/wait_for/0/{at}")


def test_the_state_of_the_group_is_that_of_kafka(deployment: Deployment) -> None:
    record = deployment.publish("state", "the state of the group")
    assert deployment.search("state", record).status_code == 200

    def committed() -> Any:
        report = deployment.client.get("/v1/freshness").json()
        at = report["partitions"][record["partition"]]
        return report if (at["committed"] or 0) > record["offset"] and report["event_time"] else None

    report = eventually(committed, within=60)
    assert report["group"] == deployment.site.name
    partitions = report["partitions"]
    assert [one["partition"] for one in partitions] == list(range(PARTITIONS))
    assert [one["lag"] for one in partitions] == [one["end"] - (one["committed"] or 0) for one in partitions]
    assert report["lag"] == sum(one["lag"] for one in partitions)
    assert [one["lag_s"] for one in partitions if one["lag"] == 0] == [0.0] * sum(not one["lag"] for one in partitions)

    def known() -> Any:
        return deployment.search("q").json()["freshness"]["event_time"]

    assert eventually(known, within=30) >= report["event_time"]


def test_the_command_waits_too(deployment: Deployment) -> None:
    record = deployment.publish("command", "found from the command line")
    option = f"{record['topic']}:{record['partition']}:{record['offset']}"
    done = deployment.site.command("search", "found from the command line", "--wait-for", option, "--json")
    assert json.loads(done.stdout)["results"][0]["source"] == record
    wrong = deployment.site.command("search", "q", "--wait-for", f"{record['topic']}:99:0", code=2)
    assert "/freshness/wait_for/0/partition" in wrong.stderr


def test_the_canary_is_found_and_leaves_nothing_behind(deployment: Deployment) -> None:
    eventually(lambda: deployment.metric("milvus_stream_canary_seconds_count") >= 1, within=120)
    collection = deployment.site.name.replace("-", "_")
    with closing(milvus_client(deployment.site.milvus)) as client:

        def canaries() -> list[Any]:
            rows = client.query(collection, filter='doc_id >= "milvus-stream:"', output_fields=["doc_id"], limit=100)
            return [row for row in rows if row["doc_id"].startswith(CANARY_PREFIX)]

        eventually(lambda: len(canaries()) <= 1, within=60, what="deleted canaries")


def test_offsets_are_those_of_the_topics_and_the_collection(kafka_bootstrap: str, deployment: Deployment) -> None:
    name = deployment.site.name
    with closing(GroupOffsets(KafkaSettings(kafka_bootstrap, (unique("none"),), name))) as missing:
        with pytest.raises(UsageError, match="no such topic"):
            missing.partitions()
        assert missing.committed() == {}
    with closing(GroupOffsets(KafkaSettings(kafka_bootstrap, (name,), name))) as offsets:
        assert offsets.partitions() == {name: PARTITIONS}
        committed, ranges = offsets.committed(), offsets.ranges()
        assert committed.keys() <= ranges.keys()
        assert all(0 < offset <= ranges[at][1] for at, offset in committed.items())
    with closing(GroupOffsets(KafkaSettings(kafka_bootstrap, (name,), name), lambda made_for: False)) as other:
        assert other.committed() == {}
    offsets.close()
    with pytest.raises(Unavailable):
        offsets.committed()


def test_an_offset_of_a_topic_that_was_made_again_does_not_count(
    kafka_bootstrap: str, make_topic: Callable[..., str]
) -> None:
    topic = make_topic(3)
    settings = KafkaSettings(kafka_bootstrap, (topic,), topic)
    with (
        closing(GroupOffsets(settings)) as offsets,
        closing(KafkaAdminClient(bootstrap_servers=kafka_bootstrap)) as admin,
    ):
        offsets.partitions()
        texts = (commit_text(offsets.topic_ids[topic], ""), commit_text("another", ""), "")
        commits = {TopicPartition(topic, at): OffsetAndMetadata(5, text, -1) for at, text in enumerate(texts)}
        admin.alter_group_offsets(topic, commits)
        assert offsets.committed() == {(topic, 0): 5, (topic, 2): 5}
