"""What a format reads from a record, before its fields have a meaning."""

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from pipeline.records import SourceRecord


@dataclass(frozen=True, slots=True)
class Deletion:
    """The document of these fields is to be deleted; the id, where it is missing, is in the key.

    It has no version: it deletes what is before it in its Kafka partition.
    """

    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """A document's text, and fields that came with it by another way."""

    text: str
    fields: dict[str, Any]


Content: TypeAlias = dict[str, Any] | str | Text | Deletion | None
"""The fields of a document, or its text alone; None deletes the document whose id is the record's key."""


class Format(Protocol):
    """How the bytes of a record are read."""

    def read(self, record: SourceRecord) -> Content:
        """The content of the record. Raises RecordRejected; with a schema registry also Unavailable."""
