"""Schemas as a registry has them, and what gives them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias
from uuid import UUID

AVRO, PROTOBUF, JSON = "avro", "protobuf", "json_schema"
SCHEMA_FORMATS: Mapping[str, str] = {"AVRO": AVRO, "PROTOBUF": PROTOBUF, "JSON": JSON}
"""What a registry calls a type of schema, and its name in `record.format`."""

SchemaRef: TypeAlias = int | UUID
"""The id that a record names its schema by: a number before its bytes, or a GUID in a header."""


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """One schema; it never changes."""

    format: str
    """One of the values of SCHEMA_FORMATS."""
    text: str
    """JSON; of Protobuf the serialized FileDescriptorProto in base64."""
    references: tuple[tuple[str, str], ...] = ()
    """Name and text of every schema that it refers to, directly or through another one, each behind its own ones."""


class SchemaSource(Protocol):
    """A schema registry, or what stands for one."""

    def schema(self, ref: SchemaRef) -> RegisteredSchema:
        """The schema of an id; asked for once an id.

        Raises RecordRejected where the registry has none of this id, Unavailable where it cannot be asked at the
        moment, UsageError where it refuses the credentials.
        """
