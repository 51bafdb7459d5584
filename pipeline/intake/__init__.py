"""From the bytes of a Kafka record to an operation on a document. Pure, but for schemas that it asks a registry for.

Every record becomes a Put, a Delete or a Rejected with a precise reason; only a registry that cannot be asked at the
moment raises.
"""

from pipeline.intake.decoder import Decoder
from pipeline.intake.field_paths import FieldPaths
from pipeline.intake.fold import Folded, fold
from pipeline.intake.formats import NAMES as FORMATS
from pipeline.intake.formats.registry import SCHEMA_FORMATS, RegisteredSchema, SchemaRef, SchemaSource
from pipeline.intake.mapping import IntakeLimits, RecordMapping
from pipeline.intake.reasons import Reason, quoted

__all__ = [
    "FORMATS",
    "SCHEMA_FORMATS",
    "Decoder",
    "FieldPaths",
    "Folded",
    "IntakeLimits",
    "Reason",
    "RecordMapping",
    "RegisteredSchema",
    "SchemaRef",
    "SchemaSource",
    "fold",
    "quoted",
]
