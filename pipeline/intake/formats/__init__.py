"""The formats of records by name.

A format sees the whole record: value, key, headers, topic and timestamp. To add one, write its `read` in a module of
this room and enter it in REGISTRY; the configuration takes its names from there.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from pipeline.intake.formats.auto import AutoFormat
from pipeline.intake.formats.json import JsonFormat
from pipeline.intake.formats.text import TextFormat
from pipeline.records import SourceRecord

Content: TypeAlias = dict[str, Any] | str | None
"""The fields of a document, or its text alone; None deletes the document whose id is the record's key."""


class Format(Protocol):
    """How the bytes of a record are read."""

    def read(self, record: SourceRecord) -> Content:
        """The content of the record. Raises RecordRejected."""


REGISTRY: Mapping[str, Format] = {"auto": AutoFormat(), "json": JsonFormat(), "text": TextFormat()}
"""The values of `record.format`."""

__all__ = ["REGISTRY", "Content", "Format"]
