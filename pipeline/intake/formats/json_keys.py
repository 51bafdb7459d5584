"""Keys that are JSON objects, as Kafka Connect and Debezium write them: `{"id": 1}`."""

from collections.abc import Callable
from typing import Any

import orjson

from pipeline.errors import RecordRejected
from pipeline.intake.field_paths import FieldPaths
from pipeline.intake.formats.connect import unwrap_key
from pipeline.intake.formats.json import exact
from pipeline.intake.formats.values import id_text, json_type
from pipeline.intake.reasons import Reason, quoted
from pipeline.records import SourceRecord


class JsonKeys:
    """The id in a key: in its field, else in its only field, else the key itself."""

    def __init__(self, other: Callable[[SourceRecord], str], paths: FieldPaths, id_field: str, *, rows: bool) -> None:
        """`other` reads all other keys. `rows`: the only field of any object is the id, whatever its name."""
        self._other = other
        self._paths = paths
        self._id_field = id_field
        self._rows = rows

    def read(self, record: SourceRecord) -> str:
        """The id, not checked yet. Raises RecordRejected, and as `other`."""
        key = record.key or b""
        if not key.startswith(b"{"):
            return self._other(record)
        try:
            fields = exact(key, orjson.loads(key), "key")
        except orjson.JSONDecodeError:
            return self._other(record)
        row = unwrap_key(fields)
        if not isinstance(row, dict):
            return _id(row, "the payload of the key")
        if (value := self._paths.value(self._id_field, row)) is not None or self._id_field in row:
            return _id(value, f"the field {quoted(self._id_field)} of the key")
        wrapped = row is not fields
        if len(row) == 1 and (self._rows or wrapped):
            ((name, value),) = row.items()
            return _id(value, f"the field {quoted(name)} of the key")
        if self._paths.moves(self._id_field):
            message = f"the key is an object without what record.fields takes for {quoted(self._id_field)}: no id"
            raise RecordRejected(Reason.INVALID_ID, message)
        # Without its schema, which may change while the row is the same.
        return orjson.dumps(row).decode() if wrapped else self._other(record)


def _id(value: Any, what: str) -> str:
    if (text := id_text(value)) is not None:
        return text
    message = f"{what} is {json_type(value)}, and no id: it must be a string or an integer of up to 1,024 bytes"
    raise RecordRejected(Reason.INVALID_ID, message)
