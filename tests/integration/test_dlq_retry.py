"""`milvus-stream dlq retry` against real Kafka and Milvus: each rejected record back in its topic, once."""

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import CoordinatorNotAvailableError
from kafka.structs import OffsetAndMetadata

from consumers.cli.dlq import retry as dlq_retry
from consumers.dead_letters import RetryReport
from consumers.dead_letters.envelope import encode_dead_letter
from consumers.dead_letters.topics import retry_log_topic
from consumers.kafka import KafkaSettings, read_range, stable_ranges
from pipeline.errors import Unavailable, UsageError
from pipeline.failpoints import EXIT_CODE
from pipeline.records import Rejected, SourceRecord
from tests.support.milvus import milvus_client
from tests.support.names import unique
from tests.support.oracle.observed import stored_documents
from tests.support.rigs.site import Site, topics, write_config
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

APPEND = ("mode=append",)
FIXED = ("record.text_field=body",)
"""What the operator corrects: the text is in another field."""
LONG_AGO = 1_700_000_000_000


@dataclass(frozen=True)
class RetrySite(Site):
    """A topic with three Kafka partitions, its dead letters, and what is around them."""

    admin: KafkaAdminClient

    def publish(
        self,
        partition: int,
        value: Mapping[str, str] | bytes,
        *,
        topic: str = "",
        key: bytes | None = b"k",
        **more: Any,
    ) -> None:
        producer = Producer({"bootstrap.servers": self.kafka})
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(topic or self.name, raw, key=key, partition=partition, **more)
        assert producer.flush(10) == 0

    def reject(self, partition: int, value: Mapping[str, str], *, key: bytes = b"k") -> None:
        """Publish a record, and what a worker of this group does with it: a dead letter, and a committed offset."""
        self.publish(partition, value, key=key)
        record = [each for each in self.read() if each.position.partition == partition][-1]
        topic_id = str(self.admin.describe_topics([self.name])[0]["topic_id"])
        made = encode_dead_letter(
            Rejected(replace(record, topic_id=topic_id), "decode", "missing_text", "no text"), pipeline="p", worker="w"
        )
        more = {"headers": list(made.headers), "timestamp": made.timestamp_ms}
        self.publish(0, made.value or b"", topic=self.dead_letter_topic, key=made.key, **more)
        _, _, offset = record.position
        commit = {TopicPartition(self.name, partition): OffsetAndMetadata(offset + 1, "", -1)}

        def committed() -> bool:
            # The first commit on a new broker makes it create the topic of offsets; until then it has no coordinator.
            with suppress(CoordinatorNotAvailableError):
                self.admin.alter_group_offsets(self.name, commit)
                return True
            return False

        eventually(committed, within=30)

    def read(self, topic: str = "") -> list[SourceRecord]:
        """What a reader of committed records sees."""
        settings = KafkaSettings(self.kafka, (topic or self.name,), self.name)
        return list(read_range(settings, stable_ranges(settings, [topic or self.name])))

    def ingest(self, *sets: str) -> None:
        self.command("ingest", "--until-caught-up", *_flags(sets))

    def retry(
        self,
        *filters: str,
        sets: Sequence[str] = FIXED,
        limit: int | None = None,
        dry_run: bool = False,
        force: bool = False,
    ) -> RetryReport:
        settings = self.settings(*sets)
        return dlq_retry.run(settings, filters, limit, threading.Event(), dry_run=dry_run, force=force)

    def texts(self) -> dict[str, set[str]]:
        with closing(milvus_client(self.milvus)) as client:
            found = stored_documents(client, self.name).documents
        return {doc_id: {row["text"] for _, row in rows} for doc_id, rows in found.items()}


def _flags(sets: Sequence[str]) -> list[str]:
    return [part for one in sets for part in ("--set", one)]


@pytest.fixture
def site(kafka_bootstrap: str, milvus_uri: str, tmp_path: Path) -> Iterator[RetrySite]:
    name = unique("retry")
    config = write_config(
        tmp_path / "config.yaml",
        name,
        kafka_bootstrap,
        milvus_uri,
        {"milvus": {"durability": "ack"}, "embedding": {"model": "hash:8"}},
    )
    site = Site(name, config, kafka_bootstrap, milvus_uri)
    with topics(site, 3, dead_letters={"max.message.bytes": "20000"}) as admin:
        yield RetrySite(name, config, kafka_bootstrap, milvus_uri, admin)


def _outcomes(report: RetryReport) -> Counter[str]:
    return Counter({outcome: count for outcome, count in report.counts.items() if count})


def test_records_go_back_once_and_undo_nothing(site: RetrySite) -> None:
    site.publish(0, {"id": "a", "body": "a1"})
    site.publish(0, {"id": "a", "text": "a2", "body": "a2"})
    site.publish(0, {"id": "b", "body": "b1"})
    site.publish(
        1, {"id": "c", "body": "c1"}, key=None, headers=[("trace", b"\xff"), ("none", None)], timestamp=LONG_AGO
    )
    site.publish(1, b"{broken")
    site.publish(1, {"id": "d", "body": "d1"})
    site.publish(2, {"id": "e", "body": "e1"})
    site.publish(2, {"id": "f", "body": "f" * 30_000})
    site.ingest()
    assert site.texts() == {"a": {"a2"}}
    # A newer version that waits; dead letters of other programs; one that is there twice; records read again anyway.
    site.publish(1, {"id": "d", "text": "d2", "body": "d2"})
    site.publish(0, b"no letter of ours", topic=site.dead_letter_topic)
    foreign = [
        ("__connect.errors.topic", "elsewhere"),
        ("__connect.errors.partition", "0"),
        ("__connect.errors.offset", "1"),
    ]
    site.publish(0, b"of another topic", topic=site.dead_letter_topic, headers=foreign)
    twice = next(letter for letter in site.read(site.dead_letter_topic) if b"b1" in (letter.value or b""))
    site.publish(
        0,
        twice.value or b"",
        topic=site.dead_letter_topic,
        key=twice.key,
        headers=list(twice.headers),
        timestamp=twice.timestamp_ms,
    )
    site.admin.alter_group_offsets(site.name, {TopicPartition(site.name, 2): OffsetAndMetadata(0, "", -1)})
    before = site.read()

    expected = Counter(retried=3, superseded=2, waiting=2, no_origin=1, other_topic=1, retried_before=1)
    planned = site.retry(dry_run=True)
    assert _outcomes(planned) == expected
    assert site.read() == before
    assert retry_log_topic(site.dead_letter_topic) not in site.admin.list_topics()
    done = site.retry()
    assert _outcomes(done) == expected
    assert dlq_retry.exit_code(done) == 0
    assert done.rejected_again == Counter(invalid_json=1)
    # The broker answers a commit before its markers are written; until then readers of committed records see nothing.
    added = eventually(lambda: [record for record in site.read() if record not in before], within=30)
    assert Counter((record.position.partition, record.value) for record in added) == Counter(
        [(0, b'{"id": "b", "body": "b1"}'), (1, b'{"id": "c", "body": "c1"}'), (1, b"{broken")]
    )
    c = next(record for record in added if b"c1" in (record.value or b""))
    assert (c.key, c.timestamp_ms) == (None, LONG_AGO)
    assert c.headers == (("trace", b"\xff"), ("none", b""), ("milvus-stream.retries", b"1"))

    again = site.retry()
    assert _outcomes(again) == expected - Counter(retried=3) + Counter(retried_before=3)
    site.ingest(*FIXED)
    assert site.texts() == {"a": {"a2"}, "b": {"b1"}, "c": {"c1"}, "d": {"d2"}, "e": {"e1"}, "f": {"f" * 30_000}}
    # What was rejected again has a dead letter of its own, and its count goes on.
    third = site.retry()
    assert _outcomes(third)["retried"] == 1
    assert [value for _, value in site.read()[-1].headers] in ([b"2"], [b"1"])
    assert ("milvus-stream.retries", b"2") in [pair for record in site.read() for pair in record.headers]
    assert _outcomes(third)["truncated"] == 1

    forced = site.retry("reason=missing_text", force=True)
    assert _outcomes(forced)["retried"] == 3  # a, d, and e, which is stored by now


def test_a_crash_at_any_point_retries_nothing_twice(site: RetrySite) -> None:
    for number in range(30):
        site.reject(number % 3, {"id": f"{number}", "body": f"{number}"})
    retry = ("dlq retry", *_flags([*APPEND, *FIXED]))
    for point, limit in (("retry_sent", "4"), ("retry_logged", "5"), ("retry_committed", "6")):
        done = site.run(*retry, "--limit", limit, point=point)
        assert done.returncode == EXIT_CODE, done.stderr
    report = json.loads(site.run(*retry, "--json").stdout)
    assert (report["retried"], report["retried_before"]) == (30 - 6, 6)
    assert _outcomes(site.retry(sets=(*APPEND, *FIXED))) == Counter(retried_before=30)
    assert Counter(record.value for record in site.read()) == Counter(
        {json.dumps({"id": f"{number}", "body": f"{number}"}).encode(): 2 for number in range(30)}
    )


def test_records_of_a_topic_recreated_with_fewer_partitions_go_by_their_key(site: RetrySite) -> None:
    for number in range(9):
        site.reject(number % 3, {"id": f"{number}", "body": "x"}, key=b"%d" % (number % 3))
    site.admin.delete_topics([site.name])
    site.admin.create_topics({site.name: {"num_partitions": 2, "replication_factor": 1}}, wait_for_metadata=True)
    sets = (*APPEND, *FIXED)
    assert _outcomes(site.retry(sets=sets, limit=4)) == Counter(retried=4, left=5)
    assert _outcomes(site.retry("reason=missing_text", sets=sets)) == Counter(retried=5, retried_before=4)
    found = site.read()
    assert len(found) == 9
    where = {(record.key, record.position.partition) for record in found}
    assert len(where) == 3
    assert where >= {(b"0", 0), (b"1", 1)}


def test_a_run_that_is_impossible_says_why(site: RetrySite, capsys: pytest.CaptureFixture[str]) -> None:
    assert _outcomes(site.retry()) == Counter()
    assert "no dead letters" in capsys.readouterr().err
    site.reject(0, {"id": "b", "body": "b1"})
    with pytest.raises(UsageError, match=rf"{site.dead_letter_topic}\.retried.* create it"):
        site.retry(sets=(*APPEND, "kafka.create_dead_letter_topic=false"))
    assert _outcomes(site.retry("reason=nothing", sets=APPEND)) == Counter()
    assert "no dead letter passes reason=nothing; there are the reasons: missing_text (1)" in capsys.readouterr().err
    for wrong in ("colour=red", "reason", "reason="):
        with pytest.raises(UsageError, match=r"write reason=…, stage=…, topic=…"):
            site.retry(wrong)
    with pytest.raises(UsageError, match="there is no topic nowhere"):
        site.retry(sets=("kafka.dead_letter_topic=nowhere",))
    with pytest.raises(UsageError, match="no such topic on the broker: other"):
        site.retry(sets=("kafka.topics=other",))
    away = _flags(("kafka.bootstrap_servers=127.0.0.1:1", "kafka.bootstrap_timeout_ms=500"))
    done = site.run("dlq retry", *away)
    assert (done.returncode, done.stdout) == (3, "")
    assert "127.0.0.1:1" in done.stderr
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        site.retry(sets=("milvus.uri=http://127.0.0.1:1",))
    stop = threading.Event()
    stop.set()
    settings = site.settings(*APPEND)
    stopped = dlq_retry.run(settings, (), None, stop, dry_run=False, force=False)
    assert (stopped.stopped, _outcomes(stopped)) == (True, Counter(left=1))
    assert len(site.read()) == 1
