"""Batches unpacked piece by piece: every codec, damage, missing packages, and the formats before Kafka 0.11."""

import gzip
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import lz4.frame
import pytest
import snappy
import zstandard
from kafka.codec import snappy_encode
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecordsBuilder

from consumers.kafka.records.batches import KEPT_BYTES, Batches, ReadLimits
from consumers.kafka.records.unpacking import PIECE_BYTES, Damaged, Unpackable, pieces
from pipeline.intake.reasons import Reason
from tests.support.rigs.raw_headers import RawName

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
TEXT = b"some words, and more of them; " * 40_000
LIMITS = ReadLimits(buffer_bytes=8 * 2**20, max_record_bytes=2**20)
PACKED = {
    GZIP: gzip.compress(TEXT),
    SNAPPY: snappy_encode(TEXT),
    LZ4: lz4.frame.compress(TEXT, block_linked=False),
    ZSTD: zstandard.ZstdCompressor().compress(TEXT),
}


@pytest.mark.parametrize("codec", PACKED)
def test_no_piece_is_large_and_together_they_are_everything(codec: int) -> None:
    found = list(pieces(codec, PACKED[codec], 2**20))
    assert max(map(len, found)) <= PIECE_BYTES
    assert b"".join(found) == TEXT


@pytest.mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_frames_behind_one_another_are_all_unpacked(codec: int) -> None:
    assert b"".join(pieces(codec, PACKED[codec] * 3, 2**20)) == TEXT * 3


def test_a_bare_snappy_block_is_unpacked_up_to_a_limit() -> None:
    packed = snappy.compress(TEXT)
    assert b"".join(pieces(SNAPPY, packed, len(TEXT))) == TEXT
    with pytest.raises(Unpackable, match=rf"unpacks to {len(TEXT):,} bytes.*batch.buffer_bytes to {2 * len(TEXT)} "):
        list(pieces(SNAPPY, packed, len(TEXT) - 1))


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4])
def test_damage_is_an_error_of_its_own(codec: int) -> None:
    for broken in (PACKED[codec][: len(PACKED[codec]) // 2], b"\xff" * 40):
        with pytest.raises(Damaged):
            list(pieces(codec, broken, 2**20))


def test_a_codec_nobody_knows_is_named() -> None:
    with pytest.raises(Unpackable, match="codec number 6"):
        list(pieces(6, b"", 2**20))


OPENING = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
from consumers.kafka import KafkaSettings
from consumers.kafka.client.connection import open_consumer
from consumers.kafka.records.unpacking import Unpackable, pieces
from pipeline.errors import UsageError
try:
    open_consumer(KafkaSettings("localhost:1", ("t",), "g"), group=True)
except UsageError as error:
    print(error.exit_code, error)
try:
    list(pieces(2, b"", 1))
except Unpackable as error:
    print(error)
"""


def test_a_missing_package_is_named_at_the_start_and_for_a_batch() -> None:
    command = [sys.executable, "-c", OPENING, "snappy", "zstandard"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    start, batch = done.stdout.splitlines()
    assert start.startswith("2 records compressed with snappy and zstd cannot be read")
    assert start.endswith("pip install python-snappy zstandard")
    assert batch.startswith("is compressed with snappy, and the package python-snappy is not installed")


def records(fetched: Any, limits: ReadLimits = LIMITS) -> list[Any]:
    batches, found = Batches(fetched, lambda: limits), []
    while (batch := batches.next_batch()) is not None:
        assert batch.validate_crc()
        found += list(batch)
    return found


def built(codec: int, *rows: tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]) -> bytes:
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 2**30)
    for offset, (key, value, headers) in enumerate(rows):
        assert builder.append(offset, 1_000 + offset, key, value, list(headers)) is not None
    return bytes(builder.build())


@pytest.mark.parametrize("codec", [0, GZIP, SNAPPY, LZ4, ZSTD])
def test_records_longer_than_a_piece_lie_across_pieces(codec: int) -> None:
    values = [bytes([n]) * (PIECE_BYTES * n // 2 + n) for n in range(6)]
    fetched = built(codec, *((None, value, [("n", None)]) for value in values)) * 2
    assert [(each.value, each.headers) for each in records(fetched)] == [(value, [("n", None)]) for value in values] * 2


def test_of_a_record_that_is_too_large_every_part_is_counted_and_cut() -> None:
    key, value = b"k" * (3 * 2**20), b"v" * (2**20 + 1)
    many = [(f"h{n}", b"x" * 1_000) for n in range(3_000)]
    before, cut, after = records(built(GZIP, (b"a", b"a", []), (key, value, many), (b"b", b"b", [])))
    assert (before.value, after.value, after.offset, after.timestamp) == (b"a", b"b", 2, 1_002)
    assert (len(cut.key), len(cut.value), cut.offset, cut.timestamp) == (KEPT_BYTES, KEPT_BYTES, 1, 1_001)
    assert key.startswith(cut.key)
    notes = dict(cut.headers.defect.notes)
    assert cut.headers.defect.reason == Reason.RECORD_TOO_LARGE
    assert (notes["truncated-key-size"], notes["truncated-value-size"]) == (str(len(key)), str(len(value)))
    assert int(notes["dropped-headers"]) + len(cut.headers) == 3_000
    assert list(cut.headers) == many[: len(cut.headers)]


def test_names_that_are_not_utf8_can_be_had_back() -> None:
    raw = [b"\xff", b"plain", b"\\xff", b"\xc3\xa9\xed\xa0\x80"]
    names: list[tuple[str, bytes | None]] = [(RawName.of(name), None) for name in raw]
    (found,) = records(built(0, (b"k", None, names)))
    assert [name for name, _ in found.headers] == [r"\xff", "plain", r"\xff", "é\\xed\\xa0\\x80"]
    (note,) = found.headers.defect.notes
    kept = dict(part.split(":") for part in note[1].split(","))
    assert {int(index): bytes.fromhex(name) for index, name in kept.items()} == {0: raw[0], 3: raw[3]}


@pytest.mark.parametrize("codec", [0, ZSTD])
def test_a_record_that_does_not_add_up_is_corrupt(codec: int) -> None:
    whole = built(0, (b"k", b"value", []))
    head, body = whole[:61], bytearray(whole[61:])
    for damaged in (body + b"\0", body[:-2], bytes([body[0] + 8]) + body[1:]):
        packed = zstandard.ZstdCompressor().compress(bytes(damaged)) if codec else bytes(damaged)
        length = (len(head) - 12 + len(packed)).to_bytes(4, "big")
        batch = Batches(
            head[:8] + length + head[12:22] + bytes([codec]) + head[23:] + packed, lambda: LIMITS
        ).next_batch()
        with pytest.raises(CorruptRecordError):
            list(batch)


@pytest.mark.parametrize("codec", [0, GZIP, SNAPPY, LZ4])
def test_the_format_before_kafka_0_11_is_read_up_to_a_limit(codec: int) -> None:
    builder = LegacyRecordBatchBuilder(1, codec, 2**30)
    for offset in range(3):
        builder.append(offset, 1_000, b"k", b"%d" % offset * 2**20)
    fetched = bytes(builder.build())
    assert [len(each.value) for each in records(fetched)] == [2**20] * 3
    if codec:
        with pytest.raises(Unpackable, match=r"batch.buffer_bytes"):
            records(fetched, ReadLimits(buffer_bytes=4 * 2**20, max_record_bytes=2**20))


def test_kafka_pythons_own_builder_and_ours_read_the_same() -> None:
    builder = MemoryRecordsBuilder(2, ZSTD, 2**20)
    for number in range(50):
        builder.append(timestamp=number, key=b"%d" % number, value=None, headers=[("a", b"b")])
    builder.close()
    found = records(builder.buffer())
    assert [(each.offset, each.timestamp, each.key, each.value) for each in found] == [
        (number, number, b"%d" % number, None) for number in range(50)
    ]
