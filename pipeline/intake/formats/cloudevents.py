"""CloudEvents in Kafka: binary mode (attributes in headers), structured mode and batches (all in the value).

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

import binascii
from base64 import b64decode
from typing import Any

import orjson

from pipeline.errors import RecordRejected
from pipeline.intake.content import Content, Text
from pipeline.intake.formats.json import JsonFormat, exact
from pipeline.intake.formats.text import TextFormat
from pipeline.intake.formats.values import Headers, decode_utf8, json_type
from pipeline.intake.reasons import Reason, quoted
from pipeline.records import SourceRecord

_PREFIX = "ce_"
_VERSION = "specversion"
_STRUCTURED, _BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
_REQUIRED = frozenset({_VERSION, "id", "source", "type"})
_NO_FIELDS = frozenset({_VERSION, "data", "data_base64", "datacontenttype", "dataschema"})
"""Members of an event that say how to read it, and become no fields of the document."""
_JSON, _TEXT = JsonFormat(), TextFormat()


def is_binary(headers: Headers) -> bool:
    """Whether the headers carry an event's attributes."""
    return any(name == f"{_PREFIX}{_VERSION}" for name, _ in headers)


def is_enclosed(headers: Headers) -> bool:
    """Whether the content type says that the value is an event, or a list of them."""
    return _media_type(headers).startswith("application/cloudevents")


def is_event(fields: dict[str, Any]) -> bool:
    """Whether these are the members of an event in structured mode."""
    return fields.keys() >= _REQUIRED and isinstance(fields[_VERSION], str)


def binary_event(record: SourceRecord) -> Content:
    """The content of an event whose data is the value. Raises RecordRejected."""
    if record.value is None:
        return None
    version = next(value or b"" for name, value in record.headers if name == f"{_PREFIX}{_VERSION}")
    _check_version(version.decode(errors="replace"))
    attributes = {
        name: decode_utf8(value or b"", f"the header {name}")
        for name, value in record.headers
        if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) not in _NO_FIELDS
    }
    return _content(record.value, _media_type(record.headers), attributes, record)


def enclosed_event(record: SourceRecord) -> Content:
    """The content of the event that the value is, or of the only one in a list. Raises RecordRejected."""
    if record.value is None:
        return None
    media_type = _media_type(record.headers)
    if not media_type.startswith((_STRUCTURED, _BATCH)):
        message = f"the value is a CloudEvent in the format {quoted(media_type)}: send it in JSON"
        raise RecordRejected(Reason.UNSUPPORTED_FORMAT, message)
    if media_type.startswith(_STRUCTURED):
        fields = _JSON.read(record)
        return None if fields is None else event_content(fields, record)
    try:
        events = orjson.loads(record.value)
    except orjson.JSONDecodeError as error:
        raise RecordRejected(Reason.INVALID_JSON, f"the batch of CloudEvents is not valid JSON: {error.msg}") from None
    if not isinstance(events, list) or len(events) != 1 or not isinstance(events[0], dict):
        count = f"{len(events):,} events" if isinstance(events, list) else json_type(events)
        message = f"the batch of CloudEvents is {count}, and a record is one document: send one event a record"
        raise RecordRejected(Reason.NO_DOCUMENT, message)
    return event_content(exact(record.value, events, "data")[0], record)


def event_content(event: dict[str, Any], record: SourceRecord) -> Content:
    """The content of an event in structured mode. Raises RecordRejected."""
    if not is_event(event):
        missing = ", ".join(quoted(name) for name in sorted(_REQUIRED - event.keys())) or quoted(_VERSION)
        raise RecordRejected(Reason.NO_DOCUMENT, f"the CloudEvent lacks {missing}")
    attributes = {f"{_PREFIX}{name}": value for name, value in event.items() if name not in _NO_FIELDS}
    _check_version(event[_VERSION])
    media_type = str(event.get("datacontenttype") or "application/json").strip().lower()
    if (encoded := event.get("data_base64")) is not None:
        try:
            unpacked = b64decode(encoded, validate=True)
        except (TypeError, ValueError, binascii.Error):
            message = f"the field {quoted('data_base64')} of the CloudEvent is not base64"
            raise RecordRejected(Reason.INVALID_BODY, message) from None
        return _content(unpacked, media_type, attributes, record)
    data = event.get("data")
    if isinstance(data, dict):
        return attributes | data
    if isinstance(data, str) and media_type.startswith("text/"):
        return Text(data, attributes)
    message = f"the data of the CloudEvent is {json_type(data)} and its content type {quoted(media_type)}: no document"
    raise RecordRejected(Reason.NOT_AN_OBJECT, message)


def _check_version(version: str) -> None:
    if not version.startswith("1."):
        message = f"the CloudEvent has the {_VERSION} {quoted(version)}: only 1.0 is read"
        raise RecordRejected(Reason.UNSUPPORTED_FORMAT, message)


def _content(data: bytes, media_type: str, attributes: dict[str, Any], record: SourceRecord) -> Content:
    if _is_json(media_type):
        fields = _JSON.read(SourceRecord(record.position, record.timestamp_ms, record.key, data))
        return None if fields is None else attributes | fields
    if media_type.startswith("text/"):
        text = _TEXT.read(SourceRecord(record.position, record.timestamp_ms, record.key, data))
        return None if text is None else Text(text, attributes)
    message = f"the data of the CloudEvent has the content type {quoted(media_type)}: send JSON or text"
    raise RecordRejected(Reason.UNSUPPORTED_FORMAT, message)


def _is_json(media_type: str) -> bool:
    essence = media_type.partition(";")[0].strip()
    return essence in ("", "application/json", "text/json") or essence.endswith("+json")


def _media_type(headers: Headers) -> str:
    value = next((value for name, value in reversed(headers) if name == "content-type"), None)
    return (value or b"").decode(errors="replace").strip().lower()
