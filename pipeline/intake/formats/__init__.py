"""The formats of records by name.

A format sees the whole record: value, key, headers, topic and timestamp. To add one, write its `read` in a module of
this room and enter it in REGISTRY; the configuration takes its names from there.
"""

from collections.abc import Mapping

from pipeline.errors import UsageError
from pipeline.intake.content import Format
from pipeline.intake.formats.auto import AutoFormat
from pipeline.intake.formats.enveloped import Enveloped
from pipeline.intake.formats.json import JsonFormat
from pipeline.intake.formats.registry import SCHEMA_FORMATS, SchemaFormat, SchemaReaders, WhereFramed
from pipeline.intake.formats.text import TextFormat

_JSON = JsonFormat()
REGISTRY: Mapping[str, Format] = {
    "auto": AutoFormat(),
    "json": _JSON,
    "text": TextFormat(),
    "debezium": _JSON,
    "cloudevents": _JSON,
}
"""The values of `record.format` that need no schema registry, and what reads the bytes of their values."""
NAMES = (*REGISTRY, *SCHEMA_FORMATS.values())
"""All values of `record.format`."""


def format_of(name: str, readers: SchemaReaders | None) -> Format:
    """The format of a name. `readers` None: there is no schema registry. Raises UsageError where it needs one."""
    if name in ("json", "text"):
        return REGISTRY[name]
    if name not in REGISTRY:
        if readers is None:
            raise UsageError(f"record.format is {name}, which needs a schema registry: set registry.url")
        return Enveloped(SchemaFormat(readers, name))
    inner = REGISTRY[name] if readers is None else WhereFramed(SchemaFormat(readers), REGISTRY[name])
    match name:
        case "debezium" | "cloudevents":
            return Enveloped(inner, name)
        case _:
            return Enveloped(inner)


__all__ = ["NAMES", "REGISTRY", "format_of"]
