"""Formats around other formats: records that say by themselves that they are an event of Debezium or a CloudEvent."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pipeline.errors import RecordRejected
from pipeline.intake.content import Content, Format
from pipeline.intake.formats import cloudevents, debezium
from pipeline.intake.reasons import Reason
from pipeline.records import SourceRecord

Envelope: TypeAlias = Literal["debezium", "cloudevents"]

_LACKS: Mapping[Envelope, str] = {
    "debezium": "it has neither the fields op and source of Debezium's envelope nor __deleted of a flattened row",
    "cloudevents": "it has neither the header ce_specversion nor the content type application/cloudevents+json, nor "
    "the fields specversion, id, source and type",
}


class Enveloped:
    """Takes the envelope off. Decides by what a record says of itself, for each record by itself."""

    def __init__(self, inner: Format, required: Envelope | None = None) -> None:
        """`inner` reads what is inside, and records without an envelope.

        `required`: a record without this envelope is refused; None: it is what `inner` reads.
        """
        self._inner = inner
        self._required = required
        self._seen: set[tuple[str, str]] = set()

    def read(self, record: SourceRecord) -> Content:
        """The content of the record. Raises as `inner`."""
        if not record.headers and self._required is None:  # most records: as few steps as can be
            content = self._inner.read(record)
            if type(content) is not dict or ("source" not in content and "__deleted" not in content):
                return content
            envelope, content = _of_fields(content, record)
        else:
            envelope, content = self._opened(record)
        if envelope is not None:
            self._log_once(record.position.topic, envelope)
        if self._required is not None and self._required != envelope and record.value is not None:
            message = f"record.format is {self._required}, and the value is another one: {_LACKS[self._required]}"
            raise RecordRejected(Reason.UNSUPPORTED_FORMAT, message)
        return content

    def _opened(self, record: SourceRecord) -> tuple[Envelope | None, Content]:
        if record.headers and self._required != "debezium":
            if cloudevents.is_binary(record.headers):
                return "cloudevents", cloudevents.binary_event(record)
            if cloudevents.is_enclosed(record.headers):
                return "cloudevents", cloudevents.enclosed_event(record)
        content = self._inner.read(record)
        return _of_fields(content, record) if isinstance(content, dict) else (None, content)

    def _log_once(self, topic: str, envelope: Envelope) -> None:
        if (topic, envelope) not in self._seen:
            self._seen.add((topic, envelope))
            import structlog  # noqa: PLC0415 - not for commands that decode nothing

            structlog.get_logger(__name__).info("format.recognized", topic=topic, format=envelope)


def _of_fields(fields: dict[str, Any], record: SourceRecord) -> tuple[Envelope | None, Content]:
    if "source" in fields:  # which both envelopes have
        if cloudevents.is_event(fields):
            return "cloudevents", cloudevents.event_content(fields, record)
        if debezium.is_change(fields):
            return "debezium", debezium.changed_row(fields)
    if debezium.is_flattened(fields):
        return "debezium", debezium.flattened_row(fields)
    return None, fields
