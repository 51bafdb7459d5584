"""The format `json`: objects, also in the envelope of Kafka Connect."""

import json
from collections.abc import Iterable
from typing import Any

import orjson

from pipeline.errors import RecordRejected
from pipeline.intake.formats.connect import unwrap
from pipeline.intake.formats.values import MAX_DEPTH, decode_utf8, json_type, refuse_registry_value, too_deep
from pipeline.intake.reasons import Reason, quoted
from pipeline.records import SourceRecord

SPACES = b" \t\r\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""RFC 8259 lets a parser skip it; orjson does not."""
_BEYOND_INTEGERS = 2.0**63
_MAY_HOLD_FLOATS = frozenset({float, dict, list})


class JsonFormat:
    """Reads one JSON object; of a field given twice the last one counts."""

    def read(self, record: SourceRecord) -> dict[str, Any] | None:
        """The fields; None for a null value or a Connect envelope whose payload is null. Raises RecordRejected."""
        if record.value is None:
            return None
        refuse_registry_value(record.value)
        value = record.value.removeprefix(BYTE_ORDER_MARK)
        fields = unwrap(_parse_object(value))
        if fields is not None and _may_have_lost_digits(fields):
            try:
                fields = unwrap(json.loads(value))
            except RecursionError:  # in a Connect schema or a field given twice: what counts is known to be shallow
                raise too_deep("the value") from None
        return fields


def exact(value: bytes, parsed: Any, what: str) -> Any:
    """What orjson has parsed of the value, with every digit of its integers. Raises RecordRejected where too deep."""
    return json.loads(value) if _holds_large_float(what, (parsed,), 0) else parsed


def _parse_object(value: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _not_json(value, error) from None
    if isinstance(parsed, dict):
        return parsed
    message = f"the value is JSON but {json_type(parsed)}, not an object"
    if isinstance(parsed, list) and any(isinstance(member, dict) for member in parsed):
        message += ": produce one record for each document"
    raise RecordRejected(Reason.NOT_AN_OBJECT, message)


def _may_have_lost_digits(fields: dict[str, Any]) -> bool:
    """Whether a number may be an integer over 64 bits: orjson gives a float for it, the slower parser every digit.

    Raises RecordRejected where a field is nested too deep.
    """
    suspect = False
    for name, value in fields.items():
        if type(value) in _MAY_HOLD_FLOATS:
            suspect |= _holds_large_float(name, (value,), 1)
    return suspect


def _holds_large_float(name: str, values: Iterable[Any], depth: int) -> bool:
    if depth > MAX_DEPTH:
        raise too_deep(f"the field {quoted(name)}")
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


def is_beyond_json(error: orjson.JSONDecodeError) -> bool:
    """Whether the value is JSON by its syntax up to here, but too deep, too large a number or half a character."""
    return any(word in error.msg for word in ("recursion", "depth", "number is infinity", "surrogate"))


def _not_json(value: bytes, error: orjson.JSONDecodeError) -> RecordRejected:
    """The precise reason behind orjson's message."""
    problem = error.msg
    where = f"line {error.lineno}, column {error.colno}"
    if "UTF-8" in problem and "BOM" not in problem:
        try:
            decode_utf8(value, "the value")
        except RecordRejected as invalid_utf8:
            return invalid_utf8
    if "surrogate" in problem:
        return RecordRejected(Reason.LONE_SURROGATE, f"half of a surrogate pair without the other at {where}")
    if "recursion" in problem or "depth" in problem:
        return too_deep("the value")
    if "number is infinity" in problem:
        return RecordRejected(Reason.NOT_FINITE, f"the number at {where} is larger than a 64-bit float can hold")
    # An unsigned word that JavaScript and Python write, but JSON does not have.
    word = value.decode(errors="replace")[error.pos : error.pos + 9].lstrip("-")
    if word.startswith(("NaN", "Infinity")):
        return RecordRejected(Reason.NOT_FINITE, f"NaN or infinity at {where}; JSON has no such number")
    return RecordRejected(Reason.INVALID_JSON, f"the value is not valid JSON at {where}: {problem}")
