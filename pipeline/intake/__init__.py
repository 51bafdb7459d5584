"""From the bytes of a Kafka record to an operation on a document. Pure.

Every record becomes a Put, a Delete or a Rejected with a precise reason; nothing is raised.
"""

from pipeline.intake.decoder import Decoder
from pipeline.intake.field_paths import FieldPaths
from pipeline.intake.fold import Folded, fold
from pipeline.intake.formats import REGISTRY as FORMATS
from pipeline.intake.mapping import IntakeLimits, RecordMapping
from pipeline.intake.reasons import Reason, quoted

__all__ = ["FORMATS", "Decoder", "FieldPaths", "Folded", "IntakeLimits", "Reason", "RecordMapping", "fold", "quoted"]
