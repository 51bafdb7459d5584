"""From the bytes of a value to a JSON object or a text."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import orjson

from pipeline.errors import RecordRejected
from pipeline.intake.reasons import Reason
from pipeline.records import MAX_INT64, MIN_INT64

Format = Literal["auto", "json", "text"]
MAX_DEPTH = 32
"""Levels of objects and lists in a record, the outermost counted."""
_SPACES = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_BEYOND_INTEGERS = 2.0**63
_MAY_HOLD_FLOATS = frozenset({float, dict, list})
_SHOWN = 60
_CONNECT_ENVELOPE = {"schema", "payload"}


def parse(value: bytes, form: Format) -> dict[str, Any] | str | None:
    """The object of a JSON value, the text of a text value; None where a Connect envelope's payload is null.

    Of a field given twice the last one counts. Raises RecordRejected.
    """
    if value[:1] == b"\x00":
        # Confluent's wire format (Avro, Protobuf, JSON Schema) begins so; no text and no JSON does.
        raise RecordRejected(
            Reason.UNSUPPORTED_FORMAT,
            "the value begins with a zero byte as a schema registry's format does; produce JSON or plain text",
        )
    # RFC 8259 lets a parser skip a byte order mark; orjson does not, and in `auto` the object would pass as a text.
    content = value.removeprefix(_BOM)
    if form == "text" or (form == "auto" and content.lstrip(_SPACES)[:1] != b"{"):
        return decode_utf8(value, "the value")
    found = _unwrapped(_object(content))
    if found is not None and _may_have_lost_digits(found):
        try:
            found = _unwrapped(json.loads(content))
        except RecursionError:  # in a Connect schema or a field given twice: what counts is known to be shallow
            raise _too_deep("the value") from None
    return found


def decode_utf8(value: bytes, what: str) -> str:
    """The text; raises RecordRejected saying at which byte it stops being UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        message = f"{what} is not UTF-8: byte {error.start} cannot stand there"
        raise RecordRejected(Reason.INVALID_UTF8, message) from None


def check_integers(name: str, value: Any) -> None:
    """Raise RecordRejected where the value is, or holds at any depth, an integer that Milvus cannot store."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            check_integers(name, item)
    elif isinstance(value, int) and not MIN_INT64 <= value <= MAX_INT64:
        message = f"the field {shown(name)} holds an integer beyond 64 bits; write it as a string"
        raise RecordRejected(Reason.INVALID_METADATA, message)


def shown(text: str) -> str:
    """A name or an id as it may stand in a message: quoted, escaped, short."""
    return json.dumps(text if len(text) <= _SHOWN else text[:_SHOWN] + "…", ensure_ascii=not text.isprintable())


def _object(value: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _not_json(value, error) from None
    if not isinstance(parsed, dict):
        raise RecordRejected(Reason.NOT_AN_OBJECT, f"the value is JSON but {_kind(parsed)}, not an object")
    return parsed


def _may_have_lost_digits(content: dict[str, Any]) -> bool:
    """Whether a number may be an integer over 64 bits: orjson gives a float for it, the slower parser every digit.

    Raises RecordRejected where a field is nested too deep.
    """
    suspect = False
    for name, value in content.items():
        if type(value) in _MAY_HOLD_FLOATS:
            suspect |= _holds_large_float(name, (value,), 1)
    return suspect


def _holds_large_float(name: str, values: Iterable[Any], depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise _too_deep(f"the field {shown(name)}")
    suspect = False
    for value in values:
        kind = type(value)
        if kind is float:
            suspect |= not -_BEYOND_INTEGERS < value < _BEYOND_INTEGERS
        elif kind is list:
            suspect |= _holds_large_float(name, value, depth + 1)
        elif kind is dict:
            suspect |= _holds_large_float(name, value.values(), depth + 1)
    return suspect


def _too_deep(what: str) -> RecordRejected:
    return RecordRejected(Reason.NESTED_TOO_DEEP, f"{what} is nested over {MAX_DEPTH} levels deep")


def _not_json(value: bytes, error: orjson.JSONDecodeError) -> RecordRejected:
    said = error.msg
    where = f"line {error.lineno}, column {error.colno}"
    if "UTF-8" in said and "BOM" not in said:
        try:
            value.decode()
        except UnicodeDecodeError as problem:
            message = f"the value is not UTF-8: byte {problem.start} cannot stand there"
            return RecordRejected(Reason.INVALID_UTF8, message)
    if "surrogate" in said:
        return RecordRejected(Reason.LONE_SURROGATE, f"half of a surrogate pair stands alone at {where}")
    if "recursion" in said or "depth" in said:
        return _too_deep("the value")
    if "number is infinity" in said:
        return RecordRejected(Reason.NOT_FINITE, f"the number at {where} is larger than a 64-bit float can hold")
    found = value.decode(errors="replace")[error.pos : error.pos + 9].lstrip("-")
    if found.startswith(("NaN", "Infinity")):
        return RecordRejected(Reason.NOT_FINITE, f"NaN or infinity at {where}; JSON has no such number")
    return RecordRejected(Reason.INVALID_JSON, f"the value is not valid JSON at {where}: {said}")


def _unwrapped(found: dict[str, Any]) -> dict[str, Any] | None:
    """The payload of what Kafka Connect's JsonConverter wraps, else the object itself."""
    if found.keys() != _CONNECT_ENVELOPE:
        return found
    payload = found["payload"]
    if payload is not None and not isinstance(payload, dict):
        message = f"the payload beside the schema is {_kind(payload)}, not an object"
        raise RecordRejected(Reason.NOT_AN_OBJECT, message)
    return payload


def _kind(value: object) -> str:
    names: Mapping[type, str] = {
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), "of another type")
