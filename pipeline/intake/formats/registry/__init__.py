"""Formats whose schemas are in a schema registry: Avro, Protobuf and JSON Schema in Confluent's wire format."""

from pipeline.intake.formats.registry.keys import FramedKeys
from pipeline.intake.formats.registry.reading import SchemaFormat, SchemaReaders, WhereFramed, check_packages
from pipeline.intake.formats.registry.schemas import SCHEMA_FORMATS, RegisteredSchema, SchemaRef, SchemaSource

__all__ = [
    "SCHEMA_FORMATS",
    "FramedKeys",
    "RegisteredSchema",
    "SchemaFormat",
    "SchemaReaders",
    "SchemaRef",
    "SchemaSource",
    "WhereFramed",
    "check_packages",
]
