"""Confluent's wire format: which schema a value or key was written with, and where its bytes begin."""

from uuid import UUID

from pipeline.errors import RecordRejected
from pipeline.intake.formats.registry.schemas import SchemaRef
from pipeline.intake.formats.values import Headers, names_schema
from pipeline.intake.reasons import Reason

_ID, _GUID = 0, 1
"""Magic bytes: what follows is an id of 4 bytes, or a GUID of 16."""
_ID_END, _GUID_END = 5, 17
_MOST_INDEXES = 32
"""Messages inside one another in a .proto file."""
_VARINT_BITS = 35


def is_framed(data: bytes, headers: Headers, header: str) -> bool:
    """Whether a value or key names its schema: by the byte it begins with, or in the header."""
    return data[:1] == b"\x00" or names_schema(headers, header)


def unframe(data: bytes, headers: Headers, header: str, what: str) -> tuple[SchemaRef, bytes]:
    """The schema's id, and the bytes that were written with it; of Protobuf they begin with the message indexes.

    Raises RecordRejected.
    """
    named = next((value for name, value in reversed(headers) if name == header), None) if headers else None
    if named is not None:
        ref, end = _schema_id(named, f"the header {header}")
        return ref, named[end:] + data
    ref, end = _schema_id(data, what)
    return ref, data[end:]


def _schema_id(data: bytes, what: str) -> tuple[SchemaRef, int]:
    magic = data[0] if data else None
    if magic == _ID and len(data) >= _ID_END:
        return int.from_bytes(data[1:_ID_END]), _ID_END
    if magic == _GUID and len(data) >= _GUID_END and what.startswith("the header"):
        return UUID(bytes=data[1:_GUID_END]), _GUID_END
    if magic in (_ID, _GUID):
        problem = f"has {len(data)} bytes, fewer than a schema's id needs"
    else:
        problem = "is empty" if magic is None else f"begins with the byte {magic}, not 0"
    message = f"{what} {problem}: it is not in a schema registry's wire format (a zero byte, the schema's id, the data)"
    raise RecordRejected(Reason.NO_SCHEMA_ID, message)


def message_indexes(data: bytes) -> tuple[list[int], int]:
    """The path to a message type in its .proto file, and where the message begins. Raises ValueError.

    The first message alone is written as a single zero.
    """
    count, at = _varint(data, 0)
    if count == 0:
        return [0], at
    if not 0 < count <= _MOST_INDEXES:
        raise ValueError(f"{count} message indexes are not possible")
    path = []
    for _ in range(count):
        index, at = _varint(data, at)
        path.append(index)
    return path, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < _VARINT_BITS:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise ValueError("the message indexes are cut off")
