"""The decoder: from a record to the operation in it, or to the reason for its rejection."""

from pipeline.errors import RecordRejected
from pipeline.intake.field_paths import FieldPaths
from pipeline.intake.formats import REGISTRY, Content
from pipeline.intake.mapping import FieldMapping, IntakeLimits, RecordMapping
from pipeline.intake.reasons import Reason
from pipeline.records import Operation, Rejected, SourceRecord


class Decoder:
    """Decodes records: format, then field paths, then field mapping. Pure, so one may serve several threads."""

    def __init__(self, mapping: RecordMapping, limits: IntakeLimits, *, append: bool) -> None:
        self._format = REGISTRY[mapping.format]
        self._paths = FieldPaths(mapping.fields, text_field=mapping.text_field, text_template=mapping.text_template)
        self._mapping = FieldMapping(mapping, limits, append=append)
        self._max_record_bytes = limits.max_record_bytes

    def decode(self, record: SourceRecord, now_ms: int | None) -> Operation:
        """The operation of this record; raises nothing, whatever its bytes are.

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

        Of a value that cannot be read the key is taken for the id, as most producers have it.
        """
        try:
            content = self._arranged(self._format.read(record)) if record.defect is None else None
        except RecordRejected:
            content = None
        try:
            return self._mapping.identity(record, content)
        except RecordRejected:
            return None

    def _arranged(self, content: Content) -> Content:
        return self._paths.apply(content) if self._paths and isinstance(content, dict) else content

    def _check_size(self, record: SourceRecord) -> None:
        if record.size > self._max_record_bytes:
            raise RecordRejected(
                Reason.RECORD_TOO_LARGE,
                f"the record has {record.size:,} bytes; kafka.max_record_bytes is {self._max_record_bytes:,}",
            )
