"""Record batches of a fetch, unpacked piece by piece within memory limits; they replace those of kafka-python."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.legacy_records import LegacyRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import decode_varint

from consumers.kafka.records.unpacking import Damaged, Unpackable, pieces
from pipeline.intake.reasons import Reason
from pipeline.records import Defect

PLAIN_BYTES = 2**20
"""A larger record is unpacked part by part, and its size is counted."""
KEPT_BYTES = 2**20
"""Bytes that a cut record keeps of its key, of its value, and of all its headers."""
HEADER_COST = 100
"""Approximate memory of one header beside its bytes."""
_LONGEST_VARINT = 10
_MAGIC_2 = 2
_LZ4 = 3


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """The memory limits of reading in bytes; all follow from `batch.buffer_bytes`."""

    buffer_bytes: int
    max_record_bytes: int

    @property
    def fetch_bytes(self) -> int:
        """Most bytes of one fetch, as the broker sends them."""
        return max(2**20, self.buffer_bytes // 4)

    @property
    def poll_bytes(self) -> int:
        """Bytes of records after which a poll ends."""
        return max(1, self.buffer_bytes // 4)

    @property
    def whole_bytes(self) -> int:
        """Largest compressed record that is unpacked whole."""
        return max(self.max_record_bytes + 2**16, self.buffer_bytes // 4)

    @property
    def block_bytes(self) -> int:
        """Most bytes of a block that can only be unpacked at once."""
        return max(2**20, self.buffer_bytes // 2)


class MarkedHeaders(list[tuple[str, bytes | None]]):
    """Headers of a record with a defect; kafka-python passes them through unchanged."""

    defect: Defect | None = None


class Batches(MemoryRecords):  # type: ignore[misc]
    """The batches of a fetch, in the current format and the two older ones."""

    __slots__ = ("_limits",)

    def __init__(self, fetched: Any, limits: Any) -> None:
        self._limits = limits
        super().__init__(fetched)

    def next_batch(self) -> Any:
        """Return the next batch, an iterable of its records; None at the end."""
        data = self._next_slice
        if data is None or len(data) < self.MIN_SLICE:
            return super().next_batch()
        self._cache_next()
        magic = data[self.MAGIC_OFFSET]
        limits: ReadLimits = self._limits()
        return _Batch(data, limits) if magic >= _MAGIC_2 else _LegacyBatch(data, magic, limits)


@dataclass(slots=True)
class _Part:
    """A key, value or header, or its beginning."""

    data: bytes | None = None
    """At most the bytes that may be kept; None: null."""
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def cut(self) -> bool:
        return self.data is not None and len(self.data) < self.size

    def notes(self, name: str) -> tuple[tuple[str, str], ...]:
        """Full size and SHA-256, if the part was cut."""
        if not self.cut:
            return ()
        return (f"truncated-{name}-size", str(self.size)), (f"truncated-{name}-sha256", self.digest.hexdigest())


class _Batch(DefaultRecordBatch):  # type: ignore[misc]
    """A batch whose buffer is a window on the unpacked bytes."""

    _buffer: bytearray
    _pos: int
    _decompressed: bool

    def __init__(self, buffer: Any, limits: ReadLimits) -> None:
        super().__init__(buffer)
        self._limits = limits
        self._pieces: Iterator[bytes] = iter(())
        self._read_bytes = 0

    def __iter__(self) -> Iterator[Any]:
        packed = self.compression_type != self.CODEC_NONE
        if packed:
            data = bytes(memoryview(self._buffer)[self._pos :])
            self._pieces = pieces(self.compression_type, data, self._limits.block_bytes)
            self._buffer, self._pos = bytearray(), 0
        self._decompressed = True
        try:
            for _ in range(self._num_records):
                yield self._record(packed)
            self._fill(1)
            if self._pos != len(self._buffer):
                raise CorruptRecordError("there are bytes behind the last record of a batch")
        except (ValueError, IndexError, Damaged) as error:
            raise CorruptRecordError(f"found an invalid record structure: {error!r}") from error

    def _record(self, packed: bool) -> Any:
        self._fill(_LONGEST_VARINT)
        length, end = decode_varint(self._buffer, self._pos)
        framed = end - self._pos + length
        if not packed or length <= PLAIN_BYTES:
            self._fill(framed)
            if length < 0 or len(self._buffer) - self._pos < framed:
                raise ValueError(f"a record of {length} bytes is incomplete")
            before = self._pos
            try:
                return self._read_msg()
            except UnicodeDecodeError:  # a header name; everything else is read as bytes
                self._pos = before
        return self._part_by_part(None if not packed or length <= self._limits.whole_bytes else KEPT_BYTES)

    def _part_by_part(self, keep: int | None) -> Any:
        """Unpack a record with unusual headers or size, with at most `keep` bytes of each part; None: all."""
        length = self._varint()
        self._read_bytes = 0
        self._part(1, 0)  # attributes, unused
        delta = self._varint()
        offset = self.base_offset + self._varint()
        key, value = (self._part(self._varint(), keep) for _ in range(2))
        headers, dropped, names = self._headers(KEPT_BYTES if keep is not None else self._limits.whole_bytes)
        if self._read_bytes != length:
            raise ValueError(f"a record of {length} bytes ends after {self._read_bytes}")
        marked = MarkedHeaders(headers)
        if dropped or names or key.cut or value.cut:
            marked.defect = _defect(key, value, dropped, names, self._limits)
        appended = self.timestamp_type == self.LOG_APPEND_TIME
        timestamp = self.max_timestamp if appended else self.first_timestamp + delta
        # With its full length, which ends the poll: several such records could take longer than a poll may.
        return DefaultRecord(length, offset, timestamp, self.timestamp_type, key.data, value.data, marked)

    def _headers(self, budget: int) -> tuple[list[tuple[str, bytes | None]], int, dict[int, bytes]]:
        """Return the headers within the budget, the number of others, and by index the names that are not UTF-8."""
        headers: list[tuple[str, bytes | None]] = []
        dropped, names = 0, {}
        for _ in range(self._varint()):
            name = self._part(self._varint(), max(0, budget))
            value = self._part(self._varint(), max(0, budget - name.size))
            budget -= name.size + value.size + HEADER_COST
            if budget < 0 or name.data is None:
                dropped += 1
                continue
            try:
                text = name.data.decode()
            except UnicodeDecodeError:
                text = name.data.decode("utf-8", "backslashreplace")
                names[len(headers)] = name.data
            headers.append((text, value.data))
        return headers, dropped, names

    def _varint(self) -> int:
        self._fill(_LONGEST_VARINT)
        value, end = decode_varint(self._buffer, self._pos)
        self._read_bytes += end - self._pos
        self._pos = end
        return int(value)

    def _part(self, size: int, keep: int | None) -> _Part:
        """Read a part, counted and hashed, and keep at most `keep` bytes of it; a negative size is null."""
        if size < 0:
            return _Part()
        part, data, remaining = _Part(size=size), bytearray(), size
        while remaining:
            self._fill(1)
            piece = self._buffer[self._pos : self._pos + remaining]
            if not piece:
                raise ValueError("a batch ends within a record")
            part.digest.update(piece)
            data += piece if keep is None else piece[: max(0, keep - len(data))]
            self._pos += len(piece)
            remaining -= len(piece)
        part.data = bytes(data)
        self._read_bytes += size
        return part

    def _fill(self, need: int) -> None:
        """Unpack until the buffer has that many unread bytes, or the batch ends."""
        if len(self._buffer) - self._pos >= need:
            return
        del self._buffer[: self._pos]
        self._pos = 0
        while len(self._buffer) < need and (piece := next(self._pieces, b"")):
            self._buffer += piece


class _LegacyBatch(LegacyRecordBatch):  # type: ignore[misc]
    """A batch in a format from before Kafka 0.11, unpacked up to a limit."""

    def __init__(self, buffer: Any, magic: int, limits: ReadLimits) -> None:
        super().__init__(buffer, magic)
        self._limits = limits

    def _decompress(self, key_offset: int) -> Any:
        codec = self.compression_type
        if self._magic == 0 and codec == _LZ4:
            return super()._decompress(key_offset)  # with a frame header that only kafka-python repairs
        _, packed = self._read_key_value(key_offset)
        whole, limit = bytearray(), self._limits.block_bytes
        try:
            for piece in pieces(codec, packed or b"", limit):
                whole += piece
                if len(whole) > limit:
                    raise Unpackable(
                        f"unpacks to more than {limit:,} bytes in a format from before Kafka 0.11: raise "
                        "batch.buffer_bytes (twice that much is needed)"
                    )
        except Damaged as error:
            raise CorruptRecordError(str(error)) from error
        return whole


def _defect(key: _Part, value: _Part, dropped: int, names: dict[int, bytes], limits: ReadLimits) -> Defect:
    notes = [*value.notes("value"), *key.notes("key")]
    if dropped:
        notes.append(("dropped-headers", str(dropped)))
    if names:
        notes.append(("header-names", ",".join(f"{index}:{raw.hex()}" for index, raw in names.items())))
    if dropped or key.cut or value.cut:
        size = key.size + value.size
        return Defect(
            Reason.RECORD_TOO_LARGE,
            f"the record came compressed and has {size:,} bytes of key and value; kafka.max_record_bytes is "
            f"{limits.max_record_bytes:,}. It was cut while it was unpacked",
            tuple(notes),
        )
    listed = ", ".join(str(index) for index in list(names)[:5])
    return Defect(
        Reason.INVALID_HEADER_NAME,
        f"the name of header {listed} (counted from 0) is not UTF-8; the dead letter has it with \\xNN for each such "
        "byte, and its bytes in the header milvus-stream.header-names",
        tuple(notes),
    )
