"""The format `text`: values that are a document's text and nothing else."""

from pipeline.errors import RecordRejected
from pipeline.intake.formats.values import VALUE_HEADER, decode_utf8, names_schema, refuse_registry_value
from pipeline.intake.reasons import Reason
from pipeline.records import SourceRecord


class TextFormat:
    """Reads UTF-8."""

    def read(self, record: SourceRecord) -> str | None:
        """The text; None for a null value. Raises RecordRejected."""
        if record.value is None:
            return None
        refuse_registry_value(record.value)
        text = decode_utf8(record.value, "the value")
        if names_schema(record.headers, VALUE_HEADER):
            message = (
                f"the header {VALUE_HEADER} names a schema and the value is no JSON: set registry.url, and "
                "record.format to auto, avro, protobuf or json_schema; or produce JSON or plain text"
            )
            raise RecordRejected(Reason.UNSUPPORTED_FORMAT, message)
        return text
