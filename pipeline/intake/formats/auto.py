"""The format `auto`: JSON where the value begins like an object, else text."""

from typing import Any

from pipeline.intake.formats.json import BYTE_ORDER_MARK, SPACES, JsonFormat
from pipeline.intake.formats.text import TextFormat
from pipeline.records import SourceRecord


class AutoFormat:
    """Chooses between JSON and text by the first character that is not a space."""

    def __init__(self) -> None:
        self._json = JsonFormat()
        self._text = TextFormat()

    def read(self, record: SourceRecord) -> dict[str, Any] | str | None:
        """The fields of an object, else the text."""
        value = record.value or b""
        is_object = value.removeprefix(BYTE_ORDER_MARK).lstrip(SPACES)[:1] == b"{"
        return self._json.read(record) if is_object else self._text.read(record)
