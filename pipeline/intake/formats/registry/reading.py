"""The formats that read by a registered schema, and the readers that they share."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Protocol

import orjson

from pipeline.errors import RecordRejected, Unavailable, UsageError
from pipeline.intake.content import Content, Format
from pipeline.intake.formats.json import JsonFormat
from pipeline.intake.formats.registry.avro import AvroReader
from pipeline.intake.formats.registry.protobuf import ProtobufReader
from pipeline.intake.formats.registry.schemas import AVRO, JSON, PROTOBUF, SchemaRef, SchemaSource
from pipeline.intake.formats.registry.wire import is_framed, unframe
from pipeline.intake.formats.values import VALUE_HEADER, json_type
from pipeline.intake.reasons import Reason
from pipeline.records import SourceRecord

_MOST_SCHEMAS = 10_000
"""Kept parsed; of more the oldest is asked for again. A producer may register without end."""


def check_packages() -> None:
    """Raise UsageError where a package of the extra is missing."""
    for name in ("fastavro", "google.protobuf"):
        try:
            found = find_spec(name) is not None
        except ModuleNotFoundError:  # of the package around it
            found = False
        if not found:
            raise UsageError(f"registry.url needs the package {name}: pip install milvus-stream[registry]")


class Reader(Protocol):
    """Reads the bytes written with one schema."""

    def read(self, body: bytes) -> Any:
        """The value, as JSON would have it. Raises RecordRejected, ValueError for bytes that do not fit the schema."""


class _JsonReader:
    """JSON by itself: its schema is the producer's check, the mapping of fields is ours."""

    def read(self, body: bytes) -> Any:
        return orjson.loads(body)  # whose error is a ValueError


@dataclass(frozen=True, slots=True)
class _Known:
    """A schema, ready to read by."""

    format: str
    reader: Reader | None
    problem: str = ""
    """Why it cannot be used, where there is no reader."""


class SchemaReaders:
    """A reader for each schema, made once; several threads may share it."""

    def __init__(self, source: SchemaSource, mapped: frozenset[str]) -> None:
        """`mapped`: names of the fields with a meaning."""
        self._source = source
        self._mapped = mapped
        self._known: dict[SchemaRef, _Known] = {}

    def format_of(self, ref: SchemaRef) -> str:
        """The format of a schema. Raises RecordRejected for an unknown one, Unavailable."""
        return self._of(ref).format

    def read(self, ref: SchemaRef, body: bytes, what: str) -> Any:
        """The value in the bytes. Raises RecordRejected, Unavailable."""
        known = self._of(ref)
        if known.reader is None:
            message = f"{what} has schema {ref} ({known.format}), which cannot be used: {known.problem}"
            raise RecordRejected(Reason.UNUSABLE_SCHEMA, message)
        try:
            return known.reader.read(body)
        except RecordRejected as error:
            raise RecordRejected(error.reason, f"{error} (schema {ref}, {known.format})") from None
        except (MemoryError, Unavailable, UsageError):
            raise
        # Schema and bytes are both written by others, and what a library raises for a pair of them is not listed. A
        # kind that is missing here would end the worker, and each one that reads the record after it.
        except Exception as error:
            problem = str(error) or type(error).__name__
            message = f"{what} does not fit its schema {ref} ({known.format}): {problem}"
            raise RecordRejected(Reason.INVALID_BODY, message) from None

    def _of(self, ref: SchemaRef) -> _Known:
        known = self._known.get(ref)
        if known is None:
            known = self._made(ref)
            if len(self._known) >= _MOST_SCHEMAS:
                self._known.pop(next(iter(self._known)), None)
            self._known[ref] = known
        return known

    def _made(self, ref: SchemaRef) -> _Known:
        schema = self._source.schema(ref)
        try:
            match schema.format:
                case "avro":
                    return _Known(AVRO, AvroReader(schema, self._mapped))
                case "protobuf":
                    return _Known(PROTOBUF, ProtobufReader(schema, self._mapped))
                case _:
                    return _Known(JSON, _JsonReader())
        except MemoryError:
            raise
        # A schema is a text that anybody may have registered, and neither library lists what it raises for one.
        except Exception as error:
            return _Known(schema.format, None, str(error)[:200] or type(error).__name__)


class SchemaFormat:
    """Values that name their schema."""

    def __init__(self, readers: SchemaReaders, expected: str | None = None) -> None:
        """`expected`: the only format that is taken; None: that of the schema, whichever it is."""
        self._readers = readers
        self._expected = expected
        self._json = JsonFormat()

    def read(self, record: SourceRecord) -> dict[str, Any] | str | None:
        """The fields of the record, or its text. Raises RecordRejected, Unavailable."""
        if record.value is None:
            return None
        ref, body = unframe(record.value, record.headers, VALUE_HEADER, "the value")
        written = self._readers.format_of(ref)
        if self._expected not in (None, written):
            message = f"the value has schema {ref}, which is {written}; record.format is {self._expected}"
            raise RecordRejected(Reason.UNSUPPORTED_FORMAT, message)
        if written == JSON:
            return self._of_json(ref, replace(record, value=body))
        value = self._readers.read(ref, body, "the value")
        if isinstance(value, dict | str):
            return value
        message = f"the value is {json_type(value)} by its schema {ref} ({written}), neither a record nor a string"
        raise RecordRejected(Reason.NOT_AN_OBJECT, message)

    def _of_json(self, ref: SchemaRef, record: SourceRecord) -> dict[str, Any] | None:
        try:
            return self._json.read(record)
        except RecordRejected as error:
            raise RecordRejected(error.reason, f"{error} (schema {ref}, {JSON})") from None


class WhereFramed:
    """Reads values that name a schema by it, and all others as another format does."""

    def __init__(self, framed: Format, other: Format) -> None:
        self._framed = framed
        self._other = other

    def read(self, record: SourceRecord) -> Content:
        """The content of the record. Raises RecordRejected, Unavailable."""
        framed = record.value is not None and is_framed(record.value, record.headers, VALUE_HEADER)
        return self._framed.read(record) if framed else self._other.read(record)


__all__ = ["SchemaFormat", "SchemaReaders", "WhereFramed", "check_packages"]
