"""The settings of records: their format, and which field means what."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from consumers.config.section import Section
from consumers.config.units import FormatName
from pipeline.intake import FieldPaths


def _one_or_several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


FieldSources = Annotated[tuple[str, ...], BeforeValidator(_one_or_several), Field(min_length=1)]
"""A path, or several."""


class RecordSection(Section):
    """The format of records, and which field means what."""

    format: FormatName = Field(
        "auto",
        description="auto: a value that parses as JSON or begins with { is JSON, and must be an object; any other one "
        "is the text itself; with `registry.url` one that names a schema is read by it; events of Debezium and "
        "CloudEvents are recognized. debezium, cloudevents, avro, protobuf, json_schema: only such values",
    )
    id_field: str = Field("id", description="the document's id; where it is missing, the record's key")
    text_field: str = Field("text", description="the text to embed")
    time_field: str = Field("event_time", description="the event time; where it is missing, Kafka's timestamp")
    version_field: str | None = Field(
        None, description="an integer or RFC 3339 time; the greater version wins, whatever the order of the records"
    )
    tenant_field: str | None = Field(None, description="the tenant; equal ids of two tenants are two documents")
    delete_field: str | None = Field(None, description="a record where this field is true deletes its own id")
    fields: dict[str, FieldSources] = Field(
        default_factory=dict,
        description="fields taken from elsewhere in a record by JSONPath, `{id: $.row.id, text: [$.title, $.body]}`; "
        "of several paths the first that has a value counts; the text joins them all. What was taken leaves its old "
        "place",
    )
    text_template: str | None = Field(
        None, min_length=1, description="the text made of several fields: `{title}: {$.body.plain}`; {{ is a brace"
    )

    @model_validator(mode="after")
    def _paths_can_be_read(self) -> Self:
        FieldPaths(self.fields, text_field=self.text_field, text_template=self.text_template)
        return self
