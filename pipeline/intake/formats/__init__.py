"""The formats of records by name.

A format sees the whole record: value, key, headers, topic and timestamp. To add one, write its `read` in a module of
this room and enter it in REGISTRY; the configuration takes its names from there.
"""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from pipeline.errors import UsageError
from pipeline.intake.formats.auto import AutoFormat
from pipeline.intake.formats.json import JsonFormat
from pipeline.intake.formats.registry import SCHEMA_FORMATS, SchemaFormat, SchemaReaders, WhereFramed
from pipeline.intake.formats.text import TextFormat
from pipeline.records import SourceRecord

Content: TypeAlias = dict[str, Any] | str | None
"""The fields of a document, or its text alone; None deletes the document whose id is the record's key."""


class Format(Protocol):
    """How the bytes of a record are read."""

    def read(self, record: SourceRecord) -> Content:
        """The content of the record. Raises RecordRejected; with a schema registry also Unavailable."""


REGISTRY: Mapping[str, Format] = {"auto": AutoFormat(), "json": JsonFormat(), "text": TextFormat()}
"""The values of `record.format` that need no schema registry."""
NAMES = (*REGISTRY, *SCHEMA_FORMATS.values())
"""All values of `record.format`."""


def format_of(name: str, readers: SchemaReaders | None) -> Format:
    """The format of a name. `readers` None: there is no schema registry. Raises UsageError where it needs one."""
    if name in REGISTRY:
        plain = REGISTRY[name]
        return WhereFramed(SchemaFormat(readers), plain) if readers is not None and name == "auto" else plain
    if readers is None:
        raise UsageError(f"record.format is {name}, which needs a schema registry: set registry.url")
    return SchemaFormat(readers, name)


__all__ = ["NAMES", "REGISTRY", "Content", "Format", "format_of"]
