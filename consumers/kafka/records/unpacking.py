"""Decompression of record batches piece by piece, so that memory is bounded whatever a batch unpacks to."""

import importlib
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

PIECE_BYTES = 2**18
_GZIP_WBITS = 31
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_LENGTH_BYTES = 4
_VARINT_BITS, _LONGEST_VARINT = 7, 5


class Codec(NamedTuple):
    """A compression codec of Kafka, and the package that unpacks it."""

    name: str
    module: str
    package: str


CODECS: Mapping[int, Codec] = {
    1: Codec("gzip", "zlib", "python"),
    2: Codec("snappy", "snappy", "python-snappy"),
    3: Codec("lz4", "lz4.frame", "lz4"),
    4: Codec("zstd", "zstandard", "zstandard"),
}
"""Codecs by their number in a batch's attributes."""


class Unpackable(Exception):
    """A batch that cannot be unpacked; the message is the rest of a sentence that begins with the batch's position."""


class Damaged(Exception):
    """Packed bytes that the codec does not write."""


def library(number: int) -> Any:
    """Import the module that unpacks the codec. Raises Unpackable, with codec and package, if it is not installed."""
    codec = CODECS.get(number)
    if codec is None:
        raise Unpackable(f"is compressed with codec number {number}, which this version of milvus-stream does not know")
    try:
        return importlib.import_module(codec.module)
    except ImportError as error:
        raise Unpackable(
            f"is compressed with {codec.name}, and the package {codec.package} is not installed or broken ({error}): "
            f"pip install {codec.package}"
        ) from error


def missing_codecs() -> list[Codec]:
    """The codecs whose package is not installed."""
    codecs = []
    for number, codec in CODECS.items():
        try:
            library(number)
        except Unpackable:
            codecs.append(codec)
    return codecs


def pieces(number: int, packed: bytes, block_limit: int) -> Iterator[bytes]:
    """Unpack the bytes in order, in pieces of at most `PIECE_BYTES` (snappy: of one block).

    `block_limit`: the most bytes of a snappy block, which cannot be unpacked in parts. Raises Unpackable, Damaged.
    """
    module = library(number)
    match CODECS[number].name:
        case "gzip":
            yield from _gzip(packed)
        case "snappy":
            yield from _snappy(module, packed, block_limit)
        case "lz4":
            yield from _lz4(module, packed)
        case _:
            yield from _zstd(module, packed)


def _gzip(packed: bytes) -> Iterator[bytes]:
    remaining = packed
    while remaining:
        member = zlib.decompressobj(_GZIP_WBITS)
        while not member.eof:
            try:
                piece = member.decompress(remaining, PIECE_BYTES)
            except zlib.error as error:
                raise Damaged(f"gzip: {error}") from error
            remaining = member.unconsumed_tail
            if piece:
                yield piece
            elif not remaining and not member.eof:
                raise Damaged("gzip: the data ends early")
        remaining = member.unused_data


def _lz4(module: Any, packed: bytes) -> Iterator[bytes]:
    remaining = packed
    while remaining:
        frame = module.LZ4FrameDecompressor()
        while not frame.eof:
            if not remaining and frame.needs_input:
                raise Damaged("lz4: the data ends early")
            try:
                piece = frame.decompress(remaining, max_length=PIECE_BYTES)
            except RuntimeError as error:
                raise Damaged(f"lz4: {error}") from error
            remaining = b""  # the decompressor keeps the unused bytes
            if piece:
                yield piece
        remaining = frame.unused_data or b""


def _zstd(module: Any, packed: bytes) -> Iterator[bytes]:
    # The library allows a window of 128 MiB at most, which the highest levels use; a larger one is an error.
    with module.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader:
        while True:
            try:
                piece = reader.read(PIECE_BYTES)
            except module.ZstdError as error:
                if "memory" in str(error):
                    raise Unpackable(
                        f"is compressed with zstd in a window that is too large ({error}): "
                        "produce with compression.zstd.level 22 or below and no long-distance mode"
                    ) from error
                raise Damaged(f"zstd: {error}") from error
            if not piece:
                return
            yield piece


def _snappy(module: Any, packed: bytes, limit: int) -> Iterator[bytes]:
    """Blocks as Java writes them, or one bare block as librdkafka does."""
    if not packed.startswith(_XERIAL):
        yield _snappy_block(module, packed, limit)
        return
    at = _XERIAL_HEADER_BYTES
    while at < len(packed):
        size = int.from_bytes(packed[at : at + _LENGTH_BYTES], "big")
        at += _LENGTH_BYTES
        yield _snappy_block(module, packed[at : at + size], limit)
        at += size


def _snappy_block(module: Any, block: bytes, limit: int) -> bytes:
    size = _declared_size(block)
    if size > limit:
        raise Unpackable(
            f"unpacks to {size:,} bytes in one snappy block, more than half of batch.buffer_bytes: set "
            f"batch.buffer_bytes to {2 * size} or more, or produce with another compression.type"
        )
    try:
        return bytes(module.decompress(block))
    except module.UncompressError as error:
        raise Damaged(f"snappy: {error.__cause__ or error}") from error


def _declared_size(block: bytes) -> int:
    """The unpacked length, as declared at the start of a snappy block."""
    size = 0
    for index, byte in enumerate(block[:_LONGEST_VARINT]):
        size |= (byte & 0x7F) << (_VARINT_BITS * index)
        if byte < 0x80:
            return size
    raise Damaged("snappy: a block without its length")
