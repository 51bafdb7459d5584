"""The delivery of dead letters that the worker relies on, on real Apache Kafka and on the fake."""

import hashlib
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourceType,
)

from consumers.dead_letters import DeadLetterProducer, decode_dead_letter, ensure_dead_letter_topic
from consumers.dead_letters.envelope import CONNECT, OWN
from consumers.kafka import KafkaSettings, newest
from consumers.local.kafka import LocalKafka
from pipeline.errors import UsageError
from pipeline.ingest import DeadLetterChannel
from pipeline.records import Position, Receipt, Rejected
from tests.support.documents import source_record
from tests.support.fakes.kafka import FakeDeadLetters
from tests.support.names import unique
from tests.support.rigs.kafka import FakeRig, RealRig, Rig, delivering, now_ms
from tests.support.waiting import eventually


def outbox(rig: Rig, topic: str, receipts: list[Receipt]) -> AbstractContextManager[DeadLetterChannel]:
    return delivering(rig.dead_letters(topic, receipts.append))


def rejected(
    offset: int = 7,
    *,
    key: bytes | None = b"key",
    value: bytes | None = b"value",
    headers: tuple[tuple[str, bytes | None], ...] = (),
    message: str = "event_time is not a time",
    topic_id: str = "",
) -> Rejected:
    record = source_record(value, key, at=("documents", 3, offset), timestamp_ms=now_ms() - 60_000, headers=headers)
    return Rejected(replace(record, topic_id=topic_id), "decode", "bad_time", message)


def confirmed(receipts: list[Receipt]) -> list[Position]:
    return [position for receipt in receipts for position in receipt.positions]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"\xff\x00key", b"\x00\xffvalue"),
        (None, b"value"),
        (b"key", None),
        (b"key", b""),
        (b"", b"value"),
        (None, None),
    ],
)
def test_key_value_and_timestamp_are_the_records_own(rig: Rig, key: bytes | None, value: bytes | None) -> None:
    topic, receipts = rig.topic(), list[Receipt]()
    sent = rejected(key=key, value=value)
    with outbox(rig, topic, receipts) as channel:
        channel.send(sent)
        eventually(lambda: confirmed(receipts) == [sent.position])
    (found,) = rig.read(topic)
    assert (found.key, found.value, found.timestamp_ms) == (key, value, sent.record.timestamp_ms)


@pytest.mark.parametrize("restarted", [True, False])
def test_a_record_that_is_read_again_is_confirmed_and_not_sent_again(rig: Rig, restarted: bool) -> None:
    topic, receipts = rig.topic(), list[Receipt]()
    sent = [rejected(offset, topic_id="id", value=b"%d" % offset) for offset in range(3)]
    with outbox(rig, topic, receipts) as channel:
        for record in sent:
            channel.send(record)
        eventually(lambda: len(confirmed(receipts)) == 3)
        if not restarted:
            channel.assigned()
            channel.send(sent[1])
            eventually(lambda: len(confirmed(receipts)) == 4)
    if restarted:
        with outbox(rig, topic, receipts) as channel:
            channel.send(sent[1])
            eventually(lambda: len(confirmed(receipts)) == 4)
    assert confirmed(receipts)[3] == sent[1].position
    assert [record.value for record in rig.read(topic)] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("change", ["topic_id", "value", "key", "timestamp_ms", "position"])
def test_another_record_is_sent_though_most_of_it_is_the_same(rig: Rig, change: str) -> None:
    """After a topic was created again, or a log has lost its end, another record has the same position."""
    topic, receipts = rig.topic(), list[Receipt]()
    first = rejected(topic_id="id")
    others: dict[str, object] = {
        "topic_id": "other",
        "value": b"other",
        "key": None,
        "timestamp_ms": first.record.timestamp_ms + 1,
        "position": first.position._replace(offset=8),
    }
    second = replace(first, record=replace(first.record, **{change: others[change]}))  # type: ignore[arg-type]
    for record in (first, second):
        with outbox(rig, topic, receipts) as channel:
            channel.send(record)
            eventually(lambda: confirmed(receipts)[-1:] == [record.position])  # noqa: B023 - called before it changes
    assert len(rig.read(topic)) == 2


def test_headers_name_place_and_reason_as_kafka_connect_does(rig: Rig) -> None:
    topic, receipts = rig.topic(), list[Receipt]()
    own: tuple[tuple[str, bytes | None], ...] = (
        ("trace", b"\xff\x01"),
        ("trace", b"again"),
        ("none", None),
        ("empty", b""),
        (CONNECT + "stage", b"an earlier pipeline"),
    )
    with outbox(rig, topic, receipts) as channel:
        channel.send(rejected(headers=own))
        eventually(lambda: receipts)
    (found,) = rig.read(topic)
    assert found.headers[:5] == (
        ("trace", b"\xff\x01"),
        ("trace", b"again"),
        ("none", b""),
        ("empty", b""),
        (CONNECT + "stage", b"an earlier pipeline"),
    )
    added = dict(found.headers[5:])
    assert {CONNECT + "stage"} | added.keys() == {
        CONNECT + name
        for name in (
            "topic",
            "partition",
            "offset",
            "connector.name",
            "task.id",
            "stage",
            "class.name",
            "exception.class.name",
            "exception.message",
            "exception.stacktrace",
        )
    } | {OWN + "reason", OWN + "null-headers", OWN + "origin"}
    assert added[CONNECT + "topic"] == b"documents"
    assert added[CONNECT + "partition"] == b"3"
    assert added[CONNECT + "offset"] == b"7"
    assert added[CONNECT + "exception.class.name"] == b"pipeline.errors.RecordRejected"
    read_back = decode_dead_letter(found)
    assert (read_back.topic, read_back.partition, read_back.offset) == ("documents", 3, 7)
    assert (read_back.reason, read_back.message) == ("bad_time", "event_time is not a time")
    assert read_back.original_headers == own[:4]
    assert not read_back.truncated


def test_every_dead_letter_is_confirmed_once_and_only_then(rig: Rig) -> None:
    topic, receipts = rig.topic(), list[Receipt]()
    with outbox(rig, topic, receipts) as channel:
        for offset in range(1_500):
            channel.send(rejected(offset))
        eventually(lambda: len(confirmed(receipts)) >= 1_500)
    assert confirmed(receipts) == [Position("documents", 3, offset) for offset in range(1_500)]
    assert [decode_dead_letter(record).offset for record in rig.read(topic)] == list(range(1_500))


def test_a_receipt_is_of_the_batch_that_its_records_were_read_in(rig: Rig) -> None:
    topic, receipts = rig.topic(), list[Receipt]()
    batches = [3, 3, 5, 3]
    with outbox(rig, topic, receipts) as channel:
        for offset, batch in enumerate(batches):
            channel.send(replace(rejected(offset), batch=batch))
        eventually(lambda: len(confirmed(receipts)) == 4)
    of = {position.offset: receipt.batch for receipt in receipts for position in receipt.positions}
    assert [of[offset] for offset in range(4)] == batches


def test_a_record_larger_than_the_topic_takes_is_cut_and_says_so(rig: Rig) -> None:
    topic, receipts = rig.topic(max_message_bytes=10_000), list[Receipt]()
    value = bytes(range(256)) * 400
    with outbox(rig, topic, receipts) as channel:
        channel.send(rejected(1, value=value))
        channel.send(rejected(2, value=b"small"))
        eventually(lambda: len(confirmed(receipts)) == 2)
    large, small = rig.read(topic)
    headers = dict(large.headers)
    assert large.value is not None
    assert 7_000 < len(large.value) < 10_000
    assert value.startswith(large.value)
    assert headers[OWN + "truncated-value-size"] == b"%d" % len(value)
    assert headers[OWN + "truncated-value-sha256"] == hashlib.sha256(value).hexdigest().encode()
    assert decode_dead_letter(large).truncated
    assert small.value == b"small"


def test_a_record_that_is_read_again_while_its_dead_letter_waits_is_sent_once() -> None:
    rig, receipts, topic = FakeRig(), list[Receipt](), "dlq"
    rig.broker.create_topic(topic)
    channel = FakeDeadLetters(rig.broker, topic, on_confirmed=receipts.append)
    first = rejected(topic_id="id")
    channel.out_of_order("away")
    channel.send(first)
    channel.assigned()
    channel.send(first)
    channel.out_of_order(None)
    assert confirmed(receipts) == [first.position] * 2
    assert len(rig.broker.read(topic)) == 1


@pytest.mark.servers
def test_a_topic_that_cannot_be_written_confirms_nothing_until_it_can(kafka_bootstrap: str) -> None:
    rig, topic, receipts = RealRig(kafka_bootstrap), unique("dlq"), list[Receipt]()
    channel = DeadLetterProducer(rig.settings(options={"max_block_ms": 300}), topic, on_confirmed=receipts.append)
    channel.start()
    try:
        channel.send(rejected())
        eventually(lambda: channel.problem is not None)
        assert not receipts
        ensure_dead_letter_topic(rig.settings(), topic, create=True)
        eventually(lambda: confirmed(receipts) == [rejected().position] and channel.problem is None, within=15)
    finally:
        channel.close(5)
        rig._admin.delete_topics([topic])
        rig.close()


def test_an_outage_of_the_fake_confirms_nothing_until_it_is_over() -> None:
    rig, receipts = FakeRig(), list[Receipt]()
    channel = FakeDeadLetters(rig.broker, rig.topic(), on_confirmed=receipts.append)
    channel.out_of_order("away")
    channel.send(rejected())
    assert (receipts, channel.problem) == ([], "away")
    channel.out_of_order(None)
    assert confirmed(receipts) == [rejected().position]


@pytest.mark.servers
def test_a_limit_changed_while_running_cuts_no_more_than_it_must(kafka_bootstrap: str) -> None:
    rig, receipts = RealRig(kafka_bootstrap), list[Receipt]()

    def takes(limit: int) -> None:
        rig._admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(limit)})])

    try:
        topic = rig.topic()
        with outbox(rig, topic, receipts) as channel:
            channel.send(rejected(1))
            eventually(lambda: receipts)
            takes(500_000)  # behind the back of the producer, which knows the old limit
            channel.send(rejected(2, value=bytes(900_000)))
            eventually(lambda: len(confirmed(receipts)) == 2, within=20)
            takes(2_000_000)
            channel.send(rejected(3, value=bytes(1_500_000)))
            eventually(lambda: len(confirmed(receipts)) == 3, within=20)
        _, cut, whole = rig.read(topic)
        assert decode_dead_letter(cut).truncated
        assert 490_000 < len(cut.value or b"") < 500_000
        assert (len(whole.value or b""), decode_dead_letter(whole).truncated) == (1_500_000, False)
    finally:
        rig.close()


@pytest.mark.servers
@pytest.mark.timeout(120)
def test_huge_records_get_through_cut_and_what_comes_after_them_whole(kafka_bootstrap: str) -> None:
    rig, receipts = RealRig(kafka_bootstrap), list[Receipt]()
    forged = (CONNECT + "topic", CONNECT + "offset", OWN + "origin", OWN + "reason")
    huge = [
        rejected(0, value=bytes(3 * 2**20)),
        rejected(1, key=bytes(3 * 2**20)),
        rejected(2, key=bytes(3 * 2**20), value=None),
        rejected(3, headers=tuple((f"h{n}", bytes(1_000)) for n in range(3_000))),
        rejected(4, headers=tuple((f"{CONNECT}{n}", b"") for n in range(60_000))),
        rejected(5, headers=((OWN + "x", bytes(3 * 2**20)), *((name, b"a lie") for name in forged))),
        rejected(6, key=bytes(2**20), value=bytes(2**20), headers=(("h", bytes(2**20)),)),
    ]
    try:
        topic = rig.topic(max_message_bytes=2**20)
        with outbox(rig, topic, receipts) as channel:
            for item in [*huge, rejected(7)]:
                channel.send(item)
            eventually(lambda: len(confirmed(receipts)) == 8, within=30)
            assert channel.problem is None
        found = rig.read(topic)
        assert [decode_dead_letter(record).offset for record in found] == list(range(8))
        assert [decode_dead_letter(record).reason for record in found] == ["bad_time"] * 8
        assert [decode_dead_letter(record).truncated for record in found] == [True] * 7 + [False]
        about = dict(found[1].headers)
        assert about[OWN + "truncated-key-size"] == b"%d" % (3 * 2**20)
        assert about[OWN + "truncated-key-sha256"] == hashlib.sha256(bytes(3 * 2**20)).hexdigest().encode()
        assert found[7].value == b"value"
    finally:
        rig.close()


@pytest.mark.servers
def test_a_topic_deleted_while_running_loses_nothing(kafka_bootstrap: str) -> None:
    rig, receipts = RealRig(kafka_bootstrap), list[Receipt]()
    quick = {"max_block_ms": 500, "delivery_timeout_ms": 1_500, "request_timeout_ms": 1_000}
    topic = rig.topic()
    channel = DeadLetterProducer(rig.settings(options=quick), topic, on_confirmed=receipts.append)
    channel.start()
    try:
        channel.send(rejected(0))
        eventually(lambda: len(confirmed(receipts)) == 1)
        rig._admin.delete_topics([topic])
        eventually(lambda: topic not in rig._admin.list_topics())
        for offset in range(1, 30):
            channel.send(rejected(offset))
        eventually(lambda: channel.problem is not None, within=10)
        assert len(confirmed(receipts)) == 1
        assert topic not in rig._admin.list_topics()  # sending does not make it
        ensure_dead_letter_topic(rig.settings(), topic, create=True)
        eventually(lambda: len(confirmed(receipts)) == 30 and channel.problem is None, within=20)
        assert {decode_dead_letter(record).offset for record in rig.read(topic)} == set(range(1, 30))
    finally:
        channel.close(5)
        rig.close()
    channel.check()


class _GuardedKafka(LocalKafka):
    """A broker that knows rights; whatever nobody spoke about is allowed."""

    def _write_settings(self, port: int, data: Path) -> Path:
        path = super()._write_settings(port, data)
        with path.open("a") as file:
            file.write("authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n")
            file.write("allow.everyone.if.no.acl.found=true\n")
        return path


@pytest.mark.servers
@pytest.mark.timeout(180)
def test_without_the_right_to_write_dead_letters_wait_until_it_is_given(tmp_path: Path) -> None:
    with _GuardedKafka(tmp_path / "kafka") as bootstrap:
        rig, receipts = RealRig(bootstrap), list[Receipt]()
        topic = rig.topic()
        pattern = ResourcePattern(ResourceType.TOPIC, topic)
        denial = ACL("User:ANONYMOUS", "*", ACLOperation.WRITE, ACLPermissionType.DENY, pattern)
        reading = ACL("User:ANONYMOUS", "*", ACLOperation.READ, ACLPermissionType.ALLOW, pattern)
        with outbox(rig, topic, receipts) as channel:
            channel.send(rejected(0))
            eventually(lambda: receipts, within=20)
            rig._admin.create_acls([denial, reading])
            channel.send(rejected(1))
            problem = eventually(lambda: channel.problem, within=20)
            assert "TopicAuthorizationFailedError" in problem
            assert len(confirmed(receipts)) == 1
            rig._admin.delete_acls([ACLFilter("User:ANONYMOUS", "*", ACLOperation.ANY, ACLPermissionType.ANY, pattern)])
            eventually(lambda: len(confirmed(receipts)) == 2 and channel.problem is None, within=20)
        assert [decode_dead_letter(record).offset for record in rig.read(topic)] == [0, 1]
        rig.close()


@pytest.mark.servers
def test_dead_letters_left_at_the_end_are_not_confirmed_and_room_is_counted(kafka_bootstrap: str) -> None:
    receipts = list[Receipt]()
    settings = KafkaSettings(kafka_bootstrap, ("t",), "g", options={"max_block_ms": 200})
    channel = DeadLetterProducer(settings, unique("missing"), on_confirmed=receipts.append)
    channel.start()
    channel.send(rejected(value=bytes(17 * 2**20)))
    assert not channel.has_room
    eventually(lambda: channel.problem is not None)
    channel.close(0.1)
    channel.check()
    assert receipts == []


@pytest.mark.servers
def test_the_dead_letter_topic_is_created_or_required(kafka_bootstrap: str) -> None:
    rig, name = RealRig(kafka_bootstrap), unique("dlq")
    settings = rig.settings()
    try:
        with pytest.raises(UsageError, match="does not exist"):
            ensure_dead_letter_topic(settings, name, create=False)
        ensure_dead_letter_topic(settings, name, create=True)
        ensure_dead_letter_topic(settings, name, create=False)
        # A timestamp of long ago must survive in it.
        rig.produce(name, b"old", timestamp_ms=1_000)
        rig.flush()
        assert [record.timestamp_ms for record in rig.read(name)] == [1_000]
        compacted = unique("dlq")
        rig._create(compacted, 1, {"cleanup.policy": "compact"})
        rig._topics |= {name, compacted}
        with pytest.raises(UsageError, match="compacted"):
            ensure_dead_letter_topic(settings, compacted, create=True)
    finally:
        rig.close()


@pytest.mark.servers
def test_the_newest_dead_letters_are_found_by_reason(kafka_bootstrap: str) -> None:
    rig = RealRig(kafka_bootstrap)
    try:
        topic = rig.topic(2)
        for number in range(2_400):
            reason = b"rare" if number % 800 == 0 else b"common"
            rig.produce(topic, b"%d" % number, partition=number % 2, headers=[(OWN + "reason", reason)])
        rig.flush()
        settings = rig.settings(topic)
        assert [r.value for r in newest(settings, topic, 2)] == [b"2398", b"2399"]
        rare = newest(settings, topic, 10, lambda record: decode_dead_letter(record).reason == "rare")
        assert [record.value for record in rare] == [b"1600", b"800", b"0"]
        assert newest(settings, topic, 5, lambda _: False) == []
    finally:
        rig.close()
