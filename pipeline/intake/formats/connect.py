"""The envelope of Kafka Connect's JsonConverter: `{"schema": …, "payload": …}`."""

from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

from pipeline.errors import RecordRejected
from pipeline.intake.formats.values import MAX_DEPTH, MOST_DECIMAL_BYTES, json_type, number, too_deep
from pipeline.intake.reasons import Reason, quoted

_MEMBERS = {"schema", "payload"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S = 86_400
_MOST_SCALE = 1_000
_EXACT = Context(prec=200)
_CONNECT, _DEBEZIUM = "org.apache.kafka.connect.data.", "io.debezium.time."


def unwrap(fields: dict[str, Any]) -> dict[str, Any] | None:
    """The payload of an envelope, else the fields themselves; None where the payload is null.

    Values whose schema is a date, a time or a decimal are written as such. Raises RecordRejected for a payload of
    another type, or a value that does not fit its schema.
    """
    if fields.keys() != _MEMBERS:
        return fields
    payload = fields["payload"]
    if payload is not None and not isinstance(payload, dict):
        message = f"the payload beside the schema is {json_type(payload)}, not an object"
        raise RecordRejected(Reason.NOT_AN_OBJECT, message)
    return None if payload is None else _struct(payload, fields["schema"])


def unwrap_key(fields: dict[str, Any]) -> Any:
    """The payload of a key in an envelope, as `unwrap` writes it, else the fields themselves. Raises RecordRejected."""
    if fields.keys() != _MEMBERS:
        return fields
    payload, schema = fields["payload"], fields["schema"]
    if isinstance(payload, dict):
        return _struct(payload, schema)
    return _typed("payload", payload, schema) if isinstance(schema, dict) else payload


def _struct(value: dict[str, Any], schema: Any, depth: int = 0) -> dict[str, Any]:
    members = schema.get("fields") if isinstance(schema, dict) else None
    named = (member for member in (members if isinstance(members, list) else ()) if isinstance(member, dict))
    # By name: a schema that names a field a thousand times would have it converted as often.
    for name, member in {str(member.get("field")): member for member in named}.items():
        if value.get(name) is not None:
            value[name] = _typed(name, value[name], member, depth + 1)
    return value


def _typed(field: str, value: Any, schema: Mapping[str, Any], depth: int = 0) -> Any:
    """The value as its schema means it; as it is where the schema says nothing of use."""
    if depth > MAX_DEPTH:
        raise too_deep(f"the field {quoted(field)}")
    written = _LOGICAL.get(str(schema.get("name")))
    if written is not None:
        try:
            return written(value, schema)
        except OverflowError:  # such as `infinity` of PostgreSQL: no date, and the number is not lost
            return value
        except (TypeError, ValueError, KeyError, ArithmeticError):
            message = f"the field {quoted(field)} does not fit its schema {quoted(str(schema.get('name')))}"
            raise RecordRejected(Reason.INVALID_BODY, message) from None
    if isinstance(value, dict):
        return _struct(value, schema, depth)
    items = schema.get("items")
    if isinstance(value, list) and isinstance(items, dict):
        return [member if member is None else _typed(field, member, items, depth + 1) for member in value]
    return value


def _decimal(value: Any, schema: Mapping[str, Any]) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value  # `decimal.format: NUMERIC`
    return _scaled(value, int(schema["parameters"]["scale"]))


def _variable(value: Any, _: Mapping[str, Any]) -> int | float:
    return _scaled(value["value"], int(value["scale"]))


def _scaled(encoded: str, scale: int) -> int | float:
    unscaled = b64decode(encoded, validate=True)
    if len(unscaled) > MOST_DECIMAL_BYTES or abs(scale) > _MOST_SCALE:
        raise ValueError("no database has such a number")
    return number(Decimal(int.from_bytes(unscaled, signed=True)).scaleb(-scale, _EXACT))


def _moment(per_second: int) -> Callable[[Any, Any], str]:
    def written(value: Any, _: Any) -> str:
        moment = _EPOCH + timedelta(microseconds=_whole(value) * 1_000_000 // per_second)
        return moment.isoformat().replace("+00:00", "Z")

    return written


def _time(per_second: int) -> Callable[[Any, Any], str]:
    def written(value: Any, _: Any) -> str:
        if not 0 <= _whole(value) < _DAY_S * per_second:
            raise OverflowError  # MySQL's TIME goes to 838 hours, and below zero: a span and no time of a day
        return (_EPOCH + timedelta(microseconds=_whole(value) * 1_000_000 // per_second)).time().isoformat()

    return written


def _date(value: Any, _: Any) -> str:
    return (date(1970, 1, 1) + timedelta(days=_whole(value))).isoformat()


def _whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(value)


_LOGICAL: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    f"{_CONNECT}Date": _date,
    f"{_CONNECT}Time": _time(1_000),
    f"{_CONNECT}Timestamp": _moment(1_000),
    f"{_CONNECT}Decimal": _decimal,
    f"{_DEBEZIUM}Date": _date,
    f"{_DEBEZIUM}Time": _time(1_000),
    f"{_DEBEZIUM}MicroTime": _time(1_000_000),
    f"{_DEBEZIUM}NanoTime": _time(1_000_000_000),
    f"{_DEBEZIUM}Timestamp": _moment(1_000),
    f"{_DEBEZIUM}MicroTimestamp": _moment(1_000_000),
    f"{_DEBEZIUM}NanoTimestamp": _moment(1_000_000_000),
    "io.debezium.data.VariableScaleDecimal": _variable,
}
"""By the name of a schema: how its values are written in the document."""
