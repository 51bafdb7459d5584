"""Keys in the wire format of a schema registry."""

from pipeline.errors import RecordRejected
from pipeline.intake.field_paths import FieldPaths
from pipeline.intake.formats.registry.reading import SchemaReaders
from pipeline.intake.formats.registry.wire import is_framed, unframe
from pipeline.intake.formats.values import KEY_HEADER, id_text, key_text
from pipeline.intake.reasons import Reason, quoted
from pipeline.records import SourceRecord


class FramedKeys:
    """The id in a key: by its schema where it names one, else the key itself as UTF-8."""

    def __init__(self, readers: SchemaReaders, paths: FieldPaths, id_field: str, *, rows: bool) -> None:
        """`id_field`: where the id is in a key that is a record, unless a path says otherwise.

        `rows`: the only field of a record is the id, whatever its name.
        """
        self._readers = readers
        self._paths = paths
        self._rows = rows
        self._id_field = id_field

    def read(self, record: SourceRecord) -> str:
        """The id, not checked yet. Raises RecordRejected, Unavailable."""
        key = record.key or b""
        if not is_framed(key, record.headers, KEY_HEADER):
            return key_text(record)
        ref, body = unframe(key, record.headers, KEY_HEADER, "the key")
        value = self._readers.read(ref, body, "the key")
        if isinstance(value, dict):
            row, value = value, self._paths.value(self._id_field, value)
            if value is None and self._rows and len(row) == 1:
                (value,) = row.values()
        if (text := id_text(value)) is not None:
            return text
        message = (
            f"the key is neither a string nor an integer by its schema {ref}, nor a record whose field "
            f"{quoted(self._id_field)} is one"
        )
        raise RecordRejected(Reason.INVALID_ID, message)
