"""Reasons to reject a record: the stable words that metrics, dead letters and filters use, and names in messages."""

import json
from enum import StrEnum

_QUOTED_CHARACTERS = 60


class Reason(StrEnum):
    """One word for each cause; the message of the rejection has the details."""

    RECORD_TOO_LARGE = "record_too_large"
    INVALID_HEADER_NAME = "invalid_header_name"
    UNSUPPORTED_FORMAT = "unsupported_format"
    NO_SCHEMA_ID = "no_schema_id"
    UNKNOWN_SCHEMA = "unknown_schema"
    UNUSABLE_SCHEMA = "unusable_schema"
    INVALID_BODY = "invalid_body"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    LONE_SURROGATE = "lone_surrogate"
    NOT_FINITE = "not_finite"
    NOT_AN_OBJECT = "not_an_object"
    NO_DOCUMENT = "no_document"
    NESTED_TOO_DEEP = "nested_too_deep"
    MISSING_ID = "missing_id"
    INVALID_ID = "invalid_id"
    ID_TOO_LONG = "id_too_long"
    MISSING_TEXT = "missing_text"
    EMPTY_TEXT = "empty_text"
    INVALID_TEXT = "invalid_text"
    INVALID_EVENT_TIME = "invalid_event_time"
    EVENT_TIME_IN_FUTURE = "event_time_in_future"
    EVENT_TIME_TOO_OLD = "event_time_too_old"
    INVALID_VERSION = "invalid_version"
    INVALID_TENANT = "invalid_tenant"
    INVALID_DELETE_FLAG = "invalid_delete_flag"
    INVALID_METADATA = "invalid_metadata"
    METADATA_TOO_LARGE = "metadata_too_large"
    DELETE_WITHOUT_KEY = "delete_without_key"
    DELETE_WITHOUT_TENANT = "delete_without_tenant"
    DELETE_IN_APPEND_MODE = "delete_in_append_mode"


def quoted(text: str) -> str:
    """A name or an id for use in a message: quoted, escaped and cut short."""
    shortened = text if len(text) <= _QUOTED_CHARACTERS else text[:_QUOTED_CHARACTERS] + "…"
    return json.dumps(shortened, ensure_ascii=not text.isprintable())
