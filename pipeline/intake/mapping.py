"""The field mapping: from the content of a record to a Put or a Delete, with every reason to refuse a field."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category

import orjson

from pipeline.errors import RecordRejected
from pipeline.intake.content import Deletion
from pipeline.intake.formats.values import key_text
from pipeline.intake.reasons import Reason, quoted
from pipeline.records import (
    MAX_DOC_ID_BYTES,
    MAX_INT64,
    MAX_METADATA_BYTES,
    MIN_INT64,
    RESERVED_NAMES,
    Delete,
    Document,
    Put,
    SourceRecord,
)
from pipeline.timestamps import event_time_ms, rfc3339_microseconds

_MAY_HOLD_INTEGERS = frozenset({int, dict, list})
_MOST_BITS = 8 * MAX_DOC_ID_BYTES
"""Of an integer that is an id."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INVISIBLE = frozenset({"Cc", "Cf"})
"""Control and format characters."""
_MAY_EXCEED_METADATA = MAX_METADATA_BYTES // 8
"""Serialized again, JSON grows at most about eightfold (1e9 as 1000000000.0): smaller values need no measuring."""


@dataclass(frozen=True, slots=True)
class RecordMapping:
    """Which field of a record means what."""

    format: str = "auto"
    """A name in the registry of formats."""
    id_field: str = "id"
    text_field: str = "text"
    time_field: str = "event_time"
    version_field: str | None = None
    tenant_field: str | None = None
    delete_field: str | None = None
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Where fields are taken from, see `FieldPaths`."""
    text_template: str | None = None

    @property
    def names(self) -> frozenset[str]:
        """The names of the fields with a meaning."""
        names = (self.id_field, self.text_field, self.time_field, self.version_field, self.tenant_field)
        return frozenset(name for name in (*names, self.delete_field) if name is not None)


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What is too large, too early or too late."""

    max_record_bytes: int
    future_skew_ms: int
    """An event time further ahead of now is refused."""
    max_event_age_ms: int | None
    """An event time longer ago is refused; None: any age."""


class FieldMapping:
    """Applies a RecordMapping; pure, so one may serve several threads."""

    def __init__(
        self,
        mapping: RecordMapping,
        limits: IntakeLimits,
        *,
        append: bool,
        key_text: Callable[[SourceRecord], str] = key_text,
        compact: bool = False,
    ) -> None:
        """`key_text`: reads the id in a key; called only where the id is not in the value.

        `compact`: a record may be far smaller than its metadata as JSON, because the names are in a schema.
        """
        self._key_text = key_text
        self._measured_from = 0 if compact else _MAY_EXCEED_METADATA
        self._mapping = mapping
        self._limits = limits
        self._append = append
        required = (mapping.id_field, mapping.text_field, mapping.time_field)
        self._consumed = mapping.names
        # Formatted once: for each record it would cost more than reading its fields.
        self._id_field, self._text_field, self._time_field = (f"the field {quoted(name)}" for name in required)

    def operation(
        self, record: SourceRecord, content: dict[str, Any] | Deletion | None, now_ms: int | None
    ) -> Put | Delete:
        """The operation that the record asks for; without content it deletes. Raises RecordRejected."""
        if content is None:
            return self._tombstone(record)
        if isinstance(content, Deletion):
            return self._deletion(record, content.fields)
        if self.deletes(content):
            return self._delete(record, content)
        return self._put(record, content, now_ms)

    def identity(self, record: SourceRecord, content: dict[str, Any] | Deletion | None) -> tuple[str | None, str]:
        """Tenant and doc_id alone, whatever else is wrong. Raises RecordRejected where they are missing or wrong."""
        fields = content.fields if isinstance(content, Deletion) else content or {}
        return self._tenant(fields), self._doc_id(record, fields)

    def _put(self, record: SourceRecord, content: dict[str, Any], now_ms: int | None) -> Put:
        document = Document(
            doc_id=self._doc_id(record, content),
            text=self._text(content),
            event_time=self._event_time(record, content, now_ms),
            metadata=self._metadata(content),
            tenant=self._tenant(content),
        )
        if record.size > self._measured_from:
            _check_metadata_size(document)
        return Put(record.position, record.timestamp_ms, document, self._version(content), record.topic_id)

    def _tombstone(self, record: SourceRecord) -> Delete:
        self._refuse_delete_in_append_mode()
        if not record.key:
            message = "a null value deletes the document whose id is the key, but there is no key"
            raise RecordRejected(Reason.DELETE_WITHOUT_KEY, message)
        if self._mapping.tenant_field is not None:
            raise RecordRejected(
                Reason.DELETE_WITHOUT_TENANT,
                "a null value cannot say whose document to delete; with record.tenant_field set, delete by a record "
                "where record.delete_field is true",
            )
        doc_id = _checked_id(self._key_text(record), "the key")
        return Delete(record.position, record.timestamp_ms, doc_id, topic_id=record.topic_id)

    def _delete(self, record: SourceRecord, content: dict[str, Any]) -> Delete:
        self._refuse_delete_in_append_mode()
        doc_id, tenant = self._doc_id(record, content), self._tenant(content)
        return Delete(record.position, record.timestamp_ms, doc_id, tenant, self._version(content), record.topic_id)

    def _deletion(self, record: SourceRecord, fields: dict[str, Any]) -> Delete:
        self._refuse_delete_in_append_mode()
        tenant_field = self._mapping.tenant_field
        if tenant_field is not None and fields.get(tenant_field) is None:
            message = (
                f"it deletes a document and does not say whose: the row before the change lacks the field "
                f"{quoted(tenant_field)}; have the database log whole rows (REPLICA IDENTITY FULL)"
            )
            raise RecordRejected(Reason.DELETE_WITHOUT_TENANT, message)
        doc_id, tenant = self._doc_id(record, fields), self._tenant(fields)
        return Delete(record.position, record.timestamp_ms, doc_id, tenant, topic_id=record.topic_id)

    def _refuse_delete_in_append_mode(self) -> None:
        if self._append:
            message = "in mode append every record is a document of its own, so there is nothing to delete"
            raise RecordRejected(Reason.DELETE_IN_APPEND_MODE, message)

    def deletes(self, content: dict[str, Any]) -> bool:
        """Whether the delete field of the content says so. Raises RecordRejected."""
        name = self._mapping.delete_field
        flag = None if name is None else content.get(name)
        if flag is None or isinstance(flag, bool):
            return bool(flag)
        raise RecordRejected(Reason.INVALID_DELETE_FLAG, f"the field {quoted(str(name))} must be true, false or null")

    def _doc_id(self, record: SourceRecord, content: dict[str, Any]) -> str:
        value = content.get(self._mapping.id_field)
        if isinstance(value, str):
            return _checked_id(value, self._id_field)
        if isinstance(value, int) and not isinstance(value, bool):
            return _checked_id(_digits(value), self._id_field)
        if value is not None:
            raise RecordRejected(Reason.INVALID_ID, f"{self._id_field} must be a string or an integer")
        if record.key or (record.key is not None and not self._append):
            return _checked_id(self._key_text(record), "the key")
        if self._append:
            return "/".join(map(str, record.position))
        message = f"{self._id_field} is missing and the record has no key, so its document has no id"
        raise RecordRejected(Reason.MISSING_ID, message)

    def _text(self, content: dict[str, Any]) -> str:
        text = content.get(self._mapping.text_field)
        if text is None:
            raise RecordRejected(Reason.MISSING_TEXT, f"{self._text_field} with the document's text is missing")
        if not isinstance(text, str):
            raise RecordRejected(Reason.INVALID_TEXT, f"{self._text_field} must be a string")
        if not text[:1].isalnum() and _is_blank(text):
            raise RecordRejected(Reason.EMPTY_TEXT, f"{self._text_field} holds no text")
        return text

    def _event_time(self, record: SourceRecord, content: dict[str, Any], now_ms: int | None) -> int:
        value = content.get(self._mapping.time_field)
        what = self._time_field
        if value is None:
            what, moment = "Kafka's timestamp", record.timestamp_ms
            if moment < 0:
                message = f"{self._time_field} is missing and Kafka has no timestamp for the record"
                raise RecordRejected(Reason.INVALID_EVENT_TIME, message)
        else:
            try:
                moment = event_time_ms(value)
            except ValueError as error:
                raise RecordRejected(Reason.INVALID_EVENT_TIME, f"{what} {error}") from None
        if now_ms is None:
            return moment
        if moment > now_ms + self._limits.future_skew_ms:
            ahead = (moment - now_ms) // 1000
            message = f"{what} is {ahead:,} s ahead of now, more than partitioning.future_skew"
            raise RecordRejected(Reason.EVENT_TIME_IN_FUTURE, message)
        max_age = self._limits.max_event_age_ms
        if max_age is not None and moment < now_ms - max_age:
            message = f"{what} is {(now_ms - moment) // 1000:,} s ago, more than partitioning.max_event_age"
            raise RecordRejected(Reason.EVENT_TIME_TOO_OLD, message)
        return moment

    def _version(self, content: dict[str, Any]) -> int | None:
        """A version field's integer, or its RFC 3339 time in epoch microseconds."""
        name = self._mapping.version_field
        if name is None:
            return None
        value = content.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and MIN_INT64 <= value <= MAX_INT64:
            return value
        if isinstance(value, str):
            try:
                return rfc3339_microseconds(value)
            except ValueError as error:
                raise RecordRejected(Reason.INVALID_VERSION, f"the field {quoted(name)} {error}") from None
        problem = "is missing; it must be" if value is None else "must be"
        message = f"the field {quoted(name)} {problem} an integer of 64 bits or an RFC 3339 time"
        raise RecordRejected(Reason.INVALID_VERSION, message)

    def _tenant(self, content: dict[str, Any]) -> str | None:
        name = self._mapping.tenant_field
        if name is None:
            return None
        value = content.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = _digits(value)
        if not isinstance(value, str) or not value.strip() or len(value.encode()) > MAX_DOC_ID_BYTES:
            message = f"the field {quoted(name)} must be a string or an integer, not empty and up to 1,024 bytes"
            raise RecordRejected(Reason.INVALID_TENANT, message)
        return value

    def _metadata(self, content: dict[str, Any]) -> dict[str, Any]:
        """The fields that are not mapped. Nothing is lost: of `id` and `meta_id`, `id` becomes `meta_meta_id`."""
        consumed = self._consumed
        metadata: dict[str, Any] = {}
        renamed: list[str] = []
        for name, value in content.items():
            if name in consumed:
                continue
            if type(value) in _MAY_HOLD_INTEGERS:
                _check_integers(name, value)
            if name in RESERVED_NAMES:
                renamed.append(name)
                continue
            if not name or (not name.isprintable() and _CONTROL.search(name)):
                message = f"the field name {quoted(name)} is empty or holds control characters"
                raise RecordRejected(Reason.INVALID_METADATA, message)
            metadata[name] = value
        for name in renamed:
            new_name = f"meta_{name}"
            while new_name in metadata:
                new_name = f"meta_{new_name}"
            metadata[new_name] = content[name]
        return metadata


def _check_integers(name: str, value: Any) -> None:
    """Raise RecordRejected where the value is, or holds at any depth, an integer that Milvus cannot store."""
    if isinstance(value, dict | list):
        for member in value.values() if isinstance(value, dict) else value:
            _check_integers(name, member)
    elif isinstance(value, int) and not MIN_INT64 <= value <= MAX_INT64:
        message = f"the field {quoted(name)} holds an integer beyond 64 bits; write it as a string"
        raise RecordRejected(Reason.INVALID_METADATA, message)


def _is_blank(text: str) -> bool:
    """Whether the text holds only spaces and invisible characters, such as a byte order mark: a model sees no token."""
    return text.isspace() or all(character.isspace() or category(character) in _INVISIBLE for character in text)


def _check_metadata_size(document: Document) -> None:
    # Rows hold the tenant among their metadata.
    tenant = {} if document.tenant is None else {"tenant": document.tenant}
    size = len(orjson.dumps({**document.metadata, **tenant}))
    if size > MAX_METADATA_BYTES:
        message = f"the metadata has {size:,} bytes as JSON; Milvus takes {MAX_METADATA_BYTES:,}"
        raise RecordRejected(Reason.METADATA_TOO_LARGE, message)


def _digits(value: int) -> str:
    """The digits of a number, of one that is too long for any id only the first: Python refuses to write 4,300."""
    return str(value) if value.bit_length() <= _MOST_BITS else "9" * (MAX_DOC_ID_BYTES + 1)


def _checked_id(doc_id: str, what: str) -> str:
    if not doc_id or doc_id.isspace():
        raise RecordRejected(Reason.MISSING_ID, f"{what} is empty, so the document has no id")
    size = len(doc_id.encode())
    if size > MAX_DOC_ID_BYTES:
        message = f"{what} has {size:,} bytes; the id of a document has at most {MAX_DOC_ID_BYTES:,}"
        raise RecordRejected(Reason.ID_TOO_LONG, message)
    return doc_id
