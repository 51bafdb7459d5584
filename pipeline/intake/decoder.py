"""The decoder: from a record to the operation in it, or to the reason for its rejection."""

from typing import Any

from pipeline.errors import RecordRejected
from pipeline.intake.content import Content, Deletion, Text
from pipeline.intake.field_paths import FieldPaths
from pipeline.intake.formats import format_of
from pipeline.intake.formats.json_keys import JsonKeys
from pipeline.intake.formats.registry import FramedKeys, SchemaReaders, SchemaSource, check_packages
from pipeline.intake.formats.values import key_text
from pipeline.intake.mapping import FieldMapping, IntakeLimits, RecordMapping
from pipeline.intake.reasons import Reason
from pipeline.records import Operation, Rejected, SourceRecord


class Decoder:
    """Decodes records: format, then field paths, then field mapping. One may serve several threads."""

    def __init__(
        self, mapping: RecordMapping, limits: IntakeLimits, *, append: bool, schemas: SchemaSource | None = None
    ) -> None:
        """`schemas`: the schema registry; None: there is none.

        Raises UsageError for a format that needs one, and where a package of the extra `registry` is missing.
        """
        readers = None
        if schemas is not None:
            check_packages()
            readers = SchemaReaders(schemas, mapping.names)
        self._format = format_of(mapping.format, readers)
        self._text_field = mapping.text_field
        self._paths = FieldPaths(
            mapping.fields, text_field=mapping.text_field, text_template=mapping.text_template, kept=mapping.names
        )
        self._arranges = self._paths.any  # asked for each record
        rows = mapping.format == "debezium"
        keys = key_text if readers is None else FramedKeys(readers, self._paths, mapping.id_field, rows=rows).read
        if mapping.format != "text":
            keys = JsonKeys(keys, self._paths, mapping.id_field, rows=rows).read
        self._mapping = FieldMapping(mapping, limits, append=append, key_text=keys, compact=readers is not None)
        self._max_record_bytes = limits.max_record_bytes

    def decode(self, record: SourceRecord, now_ms: int | None) -> Operation:
        """The operation of this record, whatever its bytes are.

        Raises Unavailable where its schema is needed and the registry cannot be asked, UsageError where the registry
        refuses the credentials, and nothing else.
        `now_ms` None: its event time may be any, because it was accepted before.
        """
        stage = "decode"
        try:
            if record.defect is not None:
                raise RecordRejected(record.defect.reason, record.defect.message)
            self._check_size(record)
            content = self._format.read(record)
            stage = "validate"
            return self._mapping.operation(record, self._arranged(content), now_ms)
        except RecordRejected as error:
            return Rejected(record, stage, error.reason, str(error))

    def identify(self, record: SourceRecord) -> tuple[str | None, str] | None:
        """Tenant and doc_id of a record that was rejected; None where they cannot be read.

        Of a value that cannot be read the key is taken for the id, as most producers have it. Raises as `decode`.
        """
        try:
            fields = self._arranged(self._format.read(record), text=False) if record.defect is None else None
        except RecordRejected:
            fields = None
        try:
            return self._mapping.identity(record, fields)
        except RecordRejected:
            return None

    def _arranged(self, content: Content, *, text: bool = True) -> dict[str, Any] | Deletion | None:
        if isinstance(content, str):
            content = {self._text_field: content}
        elif isinstance(content, Text):
            content = {**content.fields, self._text_field: content.text}
        if not self._arranges or content is None:
            return content
        if isinstance(content, Deletion):
            return Deletion(self._paths.apply(content.fields, text=False))
        try:
            return self._paths.apply(content, text=text)
        except RecordRejected:
            without = self._paths.apply(content, text=False)
            if self._mapping.deletes(without):  # which needs no text
                return without
            raise

    def _check_size(self, record: SourceRecord) -> None:
        if record.size > self._max_record_bytes:
            raise RecordRejected(
                Reason.RECORD_TOO_LARGE,
                f"the record has {record.size:,} bytes; kafka.max_record_bytes is {self._max_record_bytes:,}",
            )
