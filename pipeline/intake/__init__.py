"""From the bytes of a Kafka record to an operation on a document. Pure.

Whatever a record holds becomes a Put, a Delete or a Rejected with a precise reason; nothing is raised.
"""

from pipeline.intake.decoder import Decoder, IntakeLimits, RecordMapping
from pipeline.intake.fold import Folded, fold
from pipeline.intake.reasons import Reason

__all__ = ["Decoder", "Folded", "IntakeLimits", "Reason", "RecordMapping", "fold"]
