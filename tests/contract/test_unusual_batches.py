"""Batches in every codec, with header names that are not UTF-8, and far larger unpacked, on real Apache Kafka."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise

import pytest
from confluent_kafka import Producer

from consumers.dead_letters import decode_dead_letter
from consumers.dead_letters.selection import rejected_record, retry_headers
from consumers.kafka import JobMembership, KafkaSettings, KafkaSource, Source, read_range, topic_ranges
from consumers.kafka.records.source_record import source_record
from consumers.replay import ReplaySource
from consumers.replay.range import ReplayRange, ReplaySpan
from pipeline.errors import MilvusStreamError
from pipeline.intake import Decoder, IntakeLimits, RecordMapping
from pipeline.records import Receipt, Rejected, SourceRecord
from tests.support.rigs.kafka import Member, RealRig, delivering
from tests.support.rigs.raw_headers import produce_around
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers
MIB = 2**20
DECODER = Decoder(RecordMapping(), IntakeLimits(MIB, 600_000, None), append=False)
NAME = b"caf\xe9-\xff"


@pytest.fixture
def rig(kafka_bootstrap: str) -> Iterator[RealRig]:
    with closing(RealRig(kafka_bootstrap)) as real:
        yield real


@contextmanager
def member(source: Source) -> Iterator[Member]:
    try:
        yield Member(source)
    finally:
        source.close(5)


def by_member(settings: KafkaSettings, count: int) -> list[SourceRecord]:
    with member(KafkaSource(settings)) as reader:
        return reader.read(count, within=30)


def by_reader(settings: KafkaSettings, count: int) -> list[SourceRecord]:
    found = list(read_range(settings, topic_ranges(settings, settings.topics)))
    assert len(found) == count
    return found


def dead_lettered(rig: RealRig, topic: str, rejected: Rejected) -> SourceRecord:
    """The one record of the dead-letter topic, once the rejected record is confirmed there."""
    receipts: list[Receipt] = []
    with delivering(rig.dead_letters(topic, receipts.append)) as channel:
        channel.send(rejected)
        eventually(lambda: receipts)
    (found,) = rig.read(topic)
    return found


READERS = pytest.mark.parametrize("read", [by_member, by_reader])


def send(bootstrap: str, topic: str, codec: str, values: list[bytes]) -> None:
    """In one batch."""
    options = {"compression.type": codec, "message.max.bytes": 300 * MIB, "linger.ms": 500, "batch.size": 300 * MIB}
    producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.kbytes": 2_000_000, **options})
    failed: list[object] = []
    for value in values:
        producer.produce(topic, value, key=b"key", on_delivery=lambda error, _: failed.append(error) if error else None)
    assert producer.flush(60) == 0
    assert failed == []


@READERS
@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_in_every_codec_are_read(
    rig: RealRig, kafka_bootstrap: str, codec: str, read: Callable[[KafkaSettings, int], list[SourceRecord]]
) -> None:
    topic = rig.topic()
    values = [json.dumps({"n": n, "text": "words and words " * n}).encode() for n in range(300)]
    send(kafka_bootstrap, topic, codec, values)
    assert [record.value for record in read(rig.settings(topic), 300)] == values


@READERS
@pytest.mark.parametrize("codec", ["snappy", "lz4", "gzip"])
def test_java_clients_batches_are_read(
    rig: RealRig, kafka_bootstrap: str, codec: str, read: Callable[[KafkaSettings, int], list[SourceRecord]]
) -> None:
    """kafka-python frames snappy in blocks as Java does."""
    topic = rig.topic()
    values = [b"%d" % n * 2_000 for n in range(101)]
    produce_around(kafka_bootstrap, topic, b"plain", values, codec)
    records = read(rig.settings(topic), 101)
    assert [record.value for record in records] == values
    assert [record.defect for record in records] == [None] * 101
    assert records[50].headers == (("before", b"1"), ("plain", b"\x00\xff"), ("after", b"2"))


@READERS
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_a_header_name_that_is_not_utf8_makes_a_dead_letter_of_its_record_only(
    rig: RealRig, kafka_bootstrap: str, codec: str | None, read: Callable[[KafkaSettings, int], list[SourceRecord]]
) -> None:
    topic, dead_letter_topic = rig.topic(), rig.topic()
    values = [b'{"id": "%d", "text": "words"}' % n for n in range(5)]
    produce_around(kafka_bootstrap, topic, NAME, values, codec)
    records = read(rig.settings(topic), 5)
    assert [record.value for record in records] == values
    operations = [DECODER.decode(record, 2**42) for record in records]
    assert [type(operation) is Rejected for operation in operations] == [False, False, True, False, False]
    bad = operations[2]
    assert isinstance(bad, Rejected)
    assert (bad.stage, bad.reason) == ("decode", "invalid_header_name")
    found = dead_lettered(rig, dead_letter_topic, bad)
    dead_letter = decode_dead_letter(found)
    assert (found.key, found.value, dead_letter.offset, dead_letter.reason) == (
        b"k2",
        values[2],
        2,
        "invalid_header_name",
    )
    assert dead_letter.original_headers == (("before", b"1"), (r"caf\xe9-\xff", b"\x00\xff"), ("after", b"2"))
    assert dict(found.headers)["milvus-stream.header-names"] == b"1:" + NAME.hex().encode()
    assert not dead_letter.truncated
    assert (r"caf\xe9-\xff", b"\x00\xff") in retry_headers(dead_letter)
    assert not isinstance(DECODER.decode(rejected_record(dead_letter, records[2].position), 2**42), Rejected)


def test_a_replay_reads_past_a_header_name_that_is_not_utf8(rig: RealRig, kafka_bootstrap: str) -> None:
    topic = rig.topic()
    produce_around(kafka_bootstrap, topic, NAME, [b"%d" % n for n in range(5)])
    settings = rig.settings(topic)
    span = ReplaySpan(f"{settings.group_id}.replay", {(topic, 0): ReplayRange(0, 0, 5, 0)}, {})
    with closing(JobMembership(settings, "docs", "replay")) as job:
        job.join()
        with member(ReplaySource(settings, span, job)) as reader:
            found = reader.read(5)
    assert [record.value for record in found] == [b"0", b"1", b"2", b"3", b"4"]
    assert [record.defect is not None for record in found] == [False, False, True, False, False]


def test_a_foreign_dead_letter_with_such_a_header_is_shown(rig: RealRig, kafka_bootstrap: str) -> None:
    topic = rig.topic()
    produce_around(kafka_bootstrap, topic, NAME, [b"a", b"b", b"c"])
    assert [decode_dead_letter(record).reason for record in rig.read(topic)] == ["unknown"] * 3


READING = """
import json, resource, sys
from consumers.kafka import JobMembership, KafkaSettings, read_range, topic_ranges
settings = KafkaSettings(sys.argv[1], (sys.argv[2],), "bomb", options={"metadata_max_age_ms": 500})
warm = KafkaSettings(sys.argv[1], (sys.argv[3],), "bomb")
small = list(read_range(warm, topic_ranges(warm, warm.topics)))
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = []
for record in read_range(settings, topic_ranges(settings, settings.topics)):
    notes = {} if record.defect is None else dict(record.defect.notes)
    found.append([len(record.value), None if record.defect is None else record.defect.reason, notes])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"grown": (peak - base) * 1024, "found": found}))
"""


def read_apart(bootstrap: str, topic: str, small: str) -> tuple[int, list[list[object]]]:
    """By how many bytes a fresh process grows by reading the topic with the usual settings, and what it read."""
    command = [sys.executable, "-c", READING, bootstrap, topic, small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(done.stdout)
    return result["grown"], result["found"]


@pytest.mark.parametrize("codec", ["zstd", "gzip", "lz4"])
@pytest.mark.timeout(240)
def test_a_record_that_unpacks_to_200_mib_is_cut_on_the_way(rig: RealRig, kafka_bootstrap: str, codec: str) -> None:
    topic, small = rig.topic(max_message_bytes=4 * MIB), rig.topic()
    send(kafka_bootstrap, small, codec, [b"x" * 1_000] * 3)
    bomb = b"a bomb! " * (25 * MIB)
    send(kafka_bootstrap, topic, codec, [b"before", bomb, b"after"])
    grown, found = read_apart(kafka_bootstrap, topic, small)
    assert [size for size, _, _ in found] == [6, MIB, 5]
    assert [reason for _, reason, _ in found] == [None, "record_too_large", None]
    sha256 = hashlib.sha256(bomb).hexdigest()
    assert found[1][2] == {"truncated-value-size": str(200 * MIB), "truncated-value-sha256": sha256}
    assert grown < 2 * 64 * MIB, f"{grown / MIB:.0f} MiB"


@pytest.mark.timeout(240)
def test_many_records_that_unpack_to_a_mib_each_come_a_few_at_a_time(rig: RealRig, kafka_bootstrap: str) -> None:
    topic, small = rig.topic(max_message_bytes=4 * MIB), rig.topic()
    send(kafka_bootstrap, small, "zstd", [b"x" * 1_000] * 3)
    send(kafka_bootstrap, topic, "zstd", [b"x" * (MIB - 1_000)] * 200)
    grown, found = read_apart(kafka_bootstrap, topic, small)
    assert len(found) == 200
    assert grown < 2 * 64 * MIB, f"{grown / MIB:.0f} MiB"


def test_a_cut_record_ends_as_a_dead_letter_that_says_how_long_it_was(rig: RealRig, kafka_bootstrap: str) -> None:
    topic, dead_letter_topic = rig.topic(max_message_bytes=4 * MIB), rig.topic(max_message_bytes=100_000)
    bomb = bytes(30 * MIB)
    send(kafka_bootstrap, topic, "zstd", [bomb])
    (record,) = by_member(rig.settings(topic), 1)
    rejected = DECODER.decode(record, 2**42)
    assert isinstance(rejected, Rejected)
    found = dead_lettered(rig, dead_letter_topic, rejected)
    sizes = [value for name, value in found.headers if name == "milvus-stream.truncated-value-size"]
    assert sizes == [str(30 * MIB).encode()]
    assert dict(found.headers)["milvus-stream.truncated-value-sha256"] == hashlib.sha256(bomb).hexdigest().encode()
    assert decode_dead_letter(found).truncated
    assert decode_dead_letter(found).reason == "record_too_large"
    assert bomb.startswith(found.value or b"-")


def test_a_large_record_that_can_be_held_comes_whole(rig: RealRig, kafka_bootstrap: str) -> None:
    topic = rig.topic(max_message_bytes=4 * MIB)
    large = bytes(range(256)) * (40 * 1024)
    send(kafka_bootstrap, topic, "zstd", [large, b"small"])
    first, second = by_member(rig.settings(topic), 2)
    assert (first.value, first.defect, second.value) == (large, None, b"small")


def test_a_snappy_block_that_does_not_fit_stops_with_its_place_and_the_setting(
    rig: RealRig, kafka_bootstrap: str
) -> None:
    topic = rig.topic(max_message_bytes=4 * MIB)
    send(kafka_bootstrap, topic, "snappy", [bytes(8 * MIB)])
    with pytest.raises(MilvusStreamError, match=rf"{topic}/0, offset 0 unpacks to 8,\d+,\d+ bytes.*batch.buffer_bytes"):
        by_member(rig.settings(topic, buffer_bytes=4 * MIB), 1)
    (record,) = by_member(rig.settings(topic, buffer_bytes=64 * MIB), 1)
    assert record.value == bytes(8 * MIB)


def test_a_poll_ends_at_its_share_of_bytes_and_nothing_is_lost(rig: RealRig, kafka_bootstrap: str) -> None:
    topic = rig.topic(3)
    for partition in range(3):
        for number in range(400):
            rig.produce(topic, b"%4d" % number * 500, partition=partition)
    rig.flush()
    with member(KafkaSource(rig.settings(topic, buffer_bytes=80_000))) as reader:
        sizes = [0]

        def all_read() -> bool:
            sizes.append(sum(record.size for record in reader.poll(0.2)))
            return len(reader.records) == 1_200

        eventually(all_read, every=0, within=30)
    assert 2_000 <= max(sizes) <= 22_000
    for partition in range(3):
        offsets = [each.position.offset for each in reader.records if each.position.partition == partition]
        assert all(after == before + 1 for before, after in pairwise(offsets))


def test_what_is_read_says_nothing_of_a_defect_where_there_is_none() -> None:
    raw = ("t", 0, -1, 5, 7, 0, b"k", b"v", [("a", b"b")], None, 1, 1, 2)
    assert source_record(raw) == SourceRecord(source_record(raw).position, 7, b"k", b"v", (("a", b"b"),))
