"""Change events of Debezium: the envelope, and rows flattened by its ExtractNewRecordState.

https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-events
"""

from typing import Any

from pipeline.errors import RecordRejected
from pipeline.intake.content import Deletion
from pipeline.intake.formats.values import json_type
from pipeline.intake.reasons import Reason, quoted

_STORES = ("c", "u", "r")
"""Create, update, and read by a snapshot."""
_DELETED = "__deleted"
_UNAVAILABLE = "__debezium_unavailable_value"
"""`unavailable.value.placeholder`: what PostgreSQL keeps apart from the row (TOAST) and was not changed."""
_FLAGS = {"true": True, "false": False, True: True, False: False}


def is_change(fields: dict[str, Any]) -> bool:
    """Whether these are the fields of an envelope, or of a change of a schema."""
    source = fields.get("source")
    return isinstance(source, dict) and "connector" in source and ("op" in fields or "ddl" in fields)


def is_flattened(fields: dict[str, Any]) -> bool:
    """Whether it is a row that says whether it was deleted (`delete.tombstone.handling.mode: rewrite`)."""
    return _DELETED in fields


def changed_row(fields: dict[str, Any]) -> dict[str, Any] | Deletion:
    """The row of an envelope, as it is after the change. Raises RecordRejected."""
    operation = fields.get("op")
    if operation in _STORES:
        return _whole(_row(fields, "after"), fields.get("before"))
    if operation == "d":
        # Without REPLICA IDENTITY or supplemental logging a database does not say what the row was: the key does.
        return Deletion({} if fields.get("before") is None else _row(fields, "before"))
    if operation == "t":
        message = (
            "the table was emptied (op t), which names no document: delete its documents by records with a null value, "
            "or fill a new collection"
        )
    elif operation == "m" or "ddl" in fields:
        what = "a message of the database (op m)" if operation == "m" else "a change of a table's definition"
        message = f"it is {what} and no row: leave its topic out of kafka.topics, or skip it in the connector"
    else:
        message = f"the field {quoted('op')} is none of c, u, r, d, t and m"
    raise RecordRejected(Reason.NO_DOCUMENT, message)


def flattened_row(fields: dict[str, Any]) -> dict[str, Any] | Deletion:
    """The row without the mark that it was deleted. Raises RecordRejected."""
    flag = fields[_DELETED]
    deleted = _FLAGS.get(flag) if isinstance(flag, str | bool) else None
    if deleted is None:
        message = f"the field {quoted(_DELETED)} of Debezium must be true or false"
        raise RecordRejected(Reason.INVALID_DELETE_FLAG, message)
    row = {name: value for name, value in fields.items() if name != _DELETED}
    return Deletion(row) if deleted else _whole(row, None)


def _whole(row: dict[str, Any], before: Any) -> dict[str, Any]:
    """The row with the values that the database did not send because they are unchanged. Raises RecordRejected."""
    missing = [name for name, value in row.items() if value == _UNAVAILABLE]
    for name in missing:
        known = before.get(name, _UNAVAILABLE) if isinstance(before, dict) else _UNAVAILABLE
        if known == _UNAVAILABLE:
            message = (
                f"the field {quoted(name)} holds {_UNAVAILABLE} for a long value that did not change: have the "
                "database log whole rows (REPLICA IDENTITY FULL)"
            )
            raise RecordRejected(Reason.NO_DOCUMENT, message)
    return {**row, **{name: before[name] for name in missing}}


def _row(fields: dict[str, Any], name: str) -> dict[str, Any]:
    row = fields.get(name)
    if isinstance(row, dict):
        return row
    message = f"the field {quoted(name)} of Debezium's envelope is {json_type(row)}, not a row"
    raise RecordRejected(Reason.NOT_AN_OBJECT, message)
