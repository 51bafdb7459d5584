"""The format `auto`: JSON where the value is JSON or begins like an object, else text."""

from typing import Any

import orjson

from pipeline.intake.formats.json import BYTE_ORDER_MARK, SPACES, JsonFormat, is_beyond_json
from pipeline.intake.formats.text import TextFormat
from pipeline.records import SourceRecord

# A broken object is hardly a text. Of other values only one that parses is JSON: "[note] 12 o'clock" is a text.
_BEGINS_OBJECT = b"{"


class AutoFormat:
    """Chooses between JSON and text.

    JSON that is no object is refused, not stored as text: `[]` or `42` with a key would replace the document whose id
    is the key.
    """

    def __init__(self) -> None:
        self._json = JsonFormat()
        self._text = TextFormat()

    def read(self, record: SourceRecord) -> dict[str, Any] | str | None:
        """The fields of an object, else the text. Raises RecordRejected."""
        value = (record.value or b"").removeprefix(BYTE_ORDER_MARK)
        is_json = value.lstrip(SPACES)[:1] == _BEGINS_OBJECT or _parses(value)
        return self._json.read(record) if is_json else self._text.read(record)


def _parses(value: bytes) -> bool:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return is_beyond_json(error)
    return True
