"""The envelope of Kafka Connect's JsonConverter: `{"schema": …, "payload": …}`."""

from typing import Any

from pipeline.errors import RecordRejected
from pipeline.intake.formats.values import json_type
from pipeline.intake.reasons import Reason

_MEMBERS = {"schema", "payload"}


def unwrap(fields: dict[str, Any]) -> dict[str, Any] | None:
    """The payload of an envelope, else the fields themselves; None where the payload is null.

    Raises RecordRejected for a payload of another type.
    """
    if fields.keys() != _MEMBERS:
        return fields
    payload = fields["payload"]
    if payload is not None and not isinstance(payload, dict):
        message = f"the payload beside the schema is {json_type(payload)}, not an object"
        raise RecordRejected(Reason.NOT_AN_OBJECT, message)
    return payload
