"""The rekey stage on real Apache Kafka: every record once, keyed by its document, in the order of its partition."""

import json
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

import confluent_kafka
import pytest
from confluent_kafka import Consumer, Producer
from kafka import TopicPartition
from kafka.errors import RetriableError

from consumers.config import Settings, load_settings
from consumers.kafka import KafkaSource, read_range, stable_ranges
from consumers.kafka.client.connection import open_admin
from consumers.kafka.groups.commits import group_commits
from consumers.kafka.positions.start_positions import StartOffsets, StartPositions
from consumers.rekey import RekeyMetrics, RekeySummary
from consumers.rekey.forwarding import Forwarder
from consumers.wiring.rekey import rekey_stage
from pipeline.errors import MilvusStreamError, Unavailable, UsageError
from pipeline.records import KafkaPartition, SourceRecord
from tests.support.rigs.kafka import Member, RealRig, now_ms
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers
HOUR_AGO_MS = now_ms() - 3_600_000


@pytest.fixture
def kafka(kafka_bootstrap: str) -> Iterator[RealRig]:
    rig = RealRig(kafka_bootstrap)
    yield rig
    rig.close()


def configured(rig: RealRig, source: str, *more: str) -> Settings:
    sets = [f"kafka.bootstrap_servers={rig._bootstrap}", f"kafka.topics={source}", f"kafka.group_id={source}"]
    return load_settings(None, {}, [*sets, "kafka.session_timeout=6s", *more])


@contextmanager
def running(settings: Settings, target: str, metrics: RekeyMetrics | None = None) -> Iterator[Future[RekeySummary]]:
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(rekey_stage(settings, target, metrics or RekeyMetrics()).run, stop)
        try:
            yield run
        finally:
            stop.set()
    run.result()


@contextmanager
def closing_source(source: KafkaSource) -> Iterator[None]:
    try:
        yield
    finally:
        source.close(5)


def arrived(rig: RealRig, target: str) -> list[SourceRecord]:
    """What a reader of committed records sees."""
    settings = rig.settings(target)
    return list(read_range(settings, stable_ranges(settings, (target,))))


def publish(rig: RealRig, topic: str, count: int, *, first: int = 0, partitions: int = 2) -> list[bytes]:
    """Versions of ten documents without a key, those of each document in one Kafka partition."""
    values = []
    for number in range(first, first + count):
        values.append(json.dumps({"id": f"d{number % 10}", "text": f"version {number}"}).encode())
        rig.produce(
            topic,
            values[-1],
            partition=number % partitions,
            headers=[("n", b"%d" % number)],
            timestamp_ms=HOUR_AGO_MS + number,
        )
    rig.flush()
    return values


def test_every_document_has_one_kafka_partition_and_its_order(kafka: RealRig) -> None:
    source, target = kafka.topic(2), kafka.topic(3)
    values = publish(kafka, source, 200)
    with running(configured(kafka, source), target) as run:
        eventually(lambda: len(arrived(kafka, target)) == 200, within=30)
        assert not run.done()
    records = arrived(kafka, target)
    assert sorted(record.value or b"" for record in records) == sorted(values)
    places: dict[bytes, set[int]] = {}
    orders: dict[bytes, list[int]] = {}
    for record in records:
        value = json.loads(record.value or b"")
        assert record.key == value["id"].encode()
        number = int(dict(record.headers)["n"] or b"")
        assert record.timestamp_ms == HOUR_AGO_MS + number
        key = record.key or b""
        places.setdefault(key, set()).add(record.position.partition)
        orders.setdefault(key, []).append(number)
    assert all(len(partitions) == 1 for partitions in places.values())
    assert all(numbers == sorted(numbers) for numbers in orders.values())


def test_offsets_that_an_open_transaction_commits_are_waited_for(kafka: RealRig) -> None:
    topic = kafka.topic()
    settings = kafka.settings(topic)
    group = {"bootstrap.servers": settings.bootstrap_servers, "group.id": settings.group_id}
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    with closing(Consumer(group)) as consumer, closing(open_admin(settings)) as admin:
        # A worker commits where it begins before it reads: of a group without any commit Kafka knows no open one.
        consumer.commit(offsets=[confluent_kafka.TopicPartition(topic, 0, 3)], asynchronous=False)
        offsets = [confluent_kafka.TopicPartition(topic, 0, 7)]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 30)
        with pytest.raises(Unavailable, match="committed offsets"):
            group_commits(admin, settings.group_id, retried=RetriableError, deadline_s=0.5)
        producer.commit_transaction(30)
        commits = group_commits(admin, settings.group_id, retried=RetriableError, deadline_s=10.0)
    assert {place: commit.offset for place, commit in commits.items()} == {(topic, 0): 7}


def test_what_names_no_document_is_forwarded_as_it_is(kafka: RealRig) -> None:
    source, target = kafka.topic(), kafka.topic()
    sent: list[tuple[bytes | None, bytes | None]] = [
        (None, b"{broken"),
        (b"\xff", b"\x00\x01"),
        (b"k", None),
        (b"", b""),
        (b"key", b'{"id": "other", "text": "x", "event_time": "9999-01-01"}'),
    ]
    for key, value in sent:
        kafka.produce(source, value, key=key)
    kafka.flush()
    metrics = RekeyMetrics()
    with running(configured(kafka, source), target, metrics):
        eventually(lambda: len(arrived(kafka, target)) == len(sent), within=30)
    records = arrived(kafka, target)
    assert [(record.key, record.value) for record in records] == [*sent[:4], (b"other", sent[4][1])]
    counts = {
        outcome: metrics.registry.get_sample_value("rekey_records_total", {"outcome": outcome})
        for outcome in ("keyed", "unchanged", "untouched")
    }
    assert counts == {"keyed": 1, "unchanged": 1, "untouched": 3}


@pytest.mark.parametrize("step", ["rekey_sent", "rekey_offsets_sent", "rekey_committed"])
def test_a_stage_that_dies_anywhere_forwards_nothing_twice(
    kafka: RealRig, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    source, target = kafka.topic(2), kafka.topic(2)
    values = publish(kafka, source, 40)
    settings = configured(kafka, source)
    passed = threading.Event()

    def die(name: str) -> None:
        if name == step and not passed.is_set():
            passed.set()
            raise SystemExit(1)

    monkeypatch.setattr("consumers.rekey.forwarding.failpoints.hit", die)
    # Like a process that is killed: nothing is aborted and nobody leaves the group.
    monkeypatch.setattr(Forwarder, "close", lambda _: None)
    dying = rekey_stage(settings, target, RekeyMetrics())
    monkeypatch.setattr(dying._source, "close", lambda _: None)
    with pytest.raises(SystemExit):
        dying.run(threading.Event())
    monkeypatch.undo()
    kafka.kill(dying._source)
    with running(settings, target):
        eventually(lambda: len(arrived(kafka, target)) >= 40, within=60)
        publish(kafka, source, 10, first=40)
        eventually(lambda: len(arrived(kafka, target)) >= 50, within=60)
    found = [record.value for record in arrived(kafka, target)]
    assert len(found) == 50 == len(set(found))
    assert set(values) <= set(found)


def test_two_stages_share_the_topic_and_a_hand_over_repeats_nothing(kafka: RealRig) -> None:
    source, target = kafka.topic(2), kafka.topic(2)
    settings = configured(kafka, source, "batch.max_records=10")
    with running(settings, target):
        publish(kafka, source, 100)
        with running(settings, target):
            publish(kafka, source, 100, first=100)
            eventually(lambda: len(arrived(kafka, target)) >= 100, within=60)
        publish(kafka, source, 100, first=200)
        eventually(lambda: len(arrived(kafka, target)) >= 300, within=60)
    assert len(arrived(kafka, target)) == 300 == len({record.value for record in arrived(kafka, target)})


def test_after_a_failed_transaction_its_records_are_read_again(kafka: RealRig, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = kafka.topic(), kafka.topic()
    publish(kafka, source, 20, partitions=1)
    failing = [True, True]

    def fail(name: str) -> None:
        if name == "rekey_sent" and failing:
            failing.pop()
            raise Unavailable("the coordinator moves")

    monkeypatch.setattr("consumers.rekey.forwarding.failpoints.hit", fail)
    metrics = RekeyMetrics()
    with running(configured(kafka, source), target, metrics):
        eventually(lambda: len(arrived(kafka, target)) >= 20, within=60)
    assert len(arrived(kafka, target)) == 20
    assert metrics.registry.get_sample_value("rekey_transactions_total", {"status": "aborted"}) == 2


def test_a_stage_that_was_suspended_for_a_session_forwards_nothing_that_the_next_owner_has_forwarded(
    kafka: RealRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = kafka.topic(), kafka.topic()
    publish(kafka, source, 20, partitions=1)
    settings, metrics = configured(kafka, source), RekeyMetrics()
    suspended = rekey_stage(settings, target, metrics)
    identify, polled, resumed = suspended._identify, threading.Event(), threading.Event()

    def suspend(record: SourceRecord) -> tuple[str | None, str] | None:
        polled.set()
        assert resumed.wait(60)
        return identify(record)

    monkeypatch.setattr(suspended, "_identify", suspend)
    transactions = [("rekey_transactions_total", {"status": status}) for status in ("committed", "aborted")]
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(suspended.run, stop)
        try:
            assert polled.wait(30)
            kafka.expel(suspended._source)
            with running(settings, target):
                publish(kafka, source, 10, first=20, partitions=1)
                eventually(lambda: len(arrived(kafka, target)) == 30, within=60)
                resumed.set()
                eventually(lambda: any(metrics.registry.get_sample_value(*name) for name in transactions), within=30)
                assert [metrics.registry.get_sample_value(*name) for name in transactions] == [0, 1]
                publish(kafka, source, 10, first=30, partitions=1)
                eventually(lambda: len(arrived(kafka, target)) >= 40, within=60)
        finally:
            resumed.set()
            stop.set()
    run.result()
    assert [dict(record.headers)["n"] for record in arrived(kafka, target)] == [b"%d" % n for n in range(40)]


@contextmanager
def five_read(kafka: RealRig) -> Iterator[tuple[str, KafkaSource]]:
    """A topic and the member that has read its five records."""
    topic = kafka.topic()
    publish(kafka, topic, 5, partitions=1)
    source = KafkaSource(kafka.settings(topic))
    with closing_source(source):
        reader = Member(source)
        reader.joined(each=1)
        reader.read(5)
        yield topic, source


def test_a_transaction_carries_the_membership_under_which_its_records_were_read(kafka: RealRig) -> None:
    with five_read(kafka) as (topic, source):
        coordinator = source._open_consumer()._coordinator
        read_under = coordinator._generation
        coordinator._generation = type(read_under)(
            read_under.generation_id + 1, read_under.member_id, read_under.protocol
        )
        offsets, group = source.transaction_offsets({(topic, 0): 5})
        assert offsets[TopicPartition(topic, 0)].offset == 5
        # The broker refuses it: its group is in a later generation.
        assert (group.generation_id, group.member_id) == (read_under.generation_id, read_under.member_id)


def test_no_transaction_is_committed_after_the_membership_is_lost(kafka: RealRig) -> None:
    with five_read(kafka) as (topic, source):
        kafka.expel(source)
        with pytest.raises(Unavailable, match="no member of the group"):
            source.transaction_offsets({(topic, 0): 5})


def test_an_outage_that_goes_on_while_records_are_read_again_is_waited_out(
    kafka: RealRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = kafka.topic(), kafka.topic()
    publish(kafka, source, 40, partitions=1)
    find, begun, outage = StartPositions.find, threading.Event(), [True, True]

    def fail(name: str) -> None:
        if name == "rekey_sent" and not begun.is_set():
            begun.set()
            raise Unavailable("the coordinator moves")

    def find_if_it_can(positions: StartPositions, partitions: Collection[KafkaPartition]) -> StartOffsets:
        if begun.is_set() and outage:
            outage.pop()
            raise Unavailable("no broker answers")
        return find(positions, partitions)

    monkeypatch.setattr("consumers.rekey.forwarding.failpoints.hit", fail)
    monkeypatch.setattr(StartPositions, "find", find_if_it_can)
    metrics = RekeyMetrics()
    # Small polls: the first one after the failed transaction returns the records behind those that failed.
    with running(configured(kafka, source, "batch.max_records=10"), target, metrics) as run:
        eventually(lambda: run.done() or len(arrived(kafka, target)) >= 40, within=60)
    assert not outage
    assert [dict(record.headers)["n"] for record in arrived(kafka, target)] == [b"%d" % n for n in range(40)]
    assert metrics.registry.get_sample_value("rekey_transactions_total", {"status": "aborted"}) == 1


def test_a_source_that_has_failed_ends_the_stage_also_before_its_records_are_read_again(
    kafka: RealRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = kafka.topic(), kafka.topic()
    publish(kafka, source, 20, partitions=1)
    stage = rekey_stage(configured(kafka, source), target, RekeyMetrics())

    def fail(name: str) -> None:
        if name == "rekey_sent":
            stage._source._failure.error = Unavailable("Kafka cannot be used for reading")
            raise Unavailable("the coordinator moves")

    monkeypatch.setattr("consumers.rekey.forwarding.failpoints.hit", fail)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(stage.run, stop)
        try:
            eventually(run.done, within=30)
        finally:
            stop.set()
    with pytest.raises(Unavailable, match="for reading"):
        run.result()


def test_a_record_that_the_target_refuses_stops_the_stage_with_its_position(kafka: RealRig) -> None:
    source, target = kafka.topic(), kafka.topic(max_message_bytes=2_000)
    kafka.produce(source, b"x" * 10_000, key=b"k")
    kafka.flush()
    with pytest.raises(MilvusStreamError, match=f"{target} refuses the record at {source}/0/0.*max.message.bytes"):
        rekey_stage(configured(kafka, source), target, RekeyMetrics()).run(threading.Event())
    assert arrived(kafka, target) == []


def test_a_record_too_large_to_be_read_whole_stops_the_stage(kafka: RealRig) -> None:
    source, target = kafka.topic(max_message_bytes=2**25), kafka.topic(max_message_bytes=2**25)
    packed = Producer({"bootstrap.servers": kafka._bootstrap, "compression.type": "zstd", "message.max.bytes": 2**26})
    packed.produce(source, b"x" * 2**24, key=b"k")
    assert packed.flush(10) == 0
    settings = configured(kafka, source, "kafka.max_record_bytes=1MiB", "batch.buffer_bytes=2MiB")
    with pytest.raises(MilvusStreamError, match=f"{source}/0/0 is too large to be forwarded"):
        rekey_stage(settings, target, RekeyMetrics()).run(threading.Event())


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (lambda rig, source: source, "is one of kafka.topics"),
        (lambda rig, source: "documents.dlq", "is kafka.dead_letter_topic"),
        (lambda rig, source: "missing", "the topic missing does not exist: create it"),
    ],
)
def test_a_wrong_target_is_refused_before_anything_is_read(
    kafka: RealRig, target: Callable[[RealRig, str], str], problem: str
) -> None:
    source = kafka.topic()
    with pytest.raises(UsageError, match=problem):
        rekey_stage(configured(kafka, source), target(kafka, source), RekeyMetrics())
