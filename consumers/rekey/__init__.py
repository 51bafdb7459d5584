"""The rekey stage: forwards the records of the topics to another topic, keyed by the id of their document."""

from consumers.rekey.metrics import RekeyMetrics
from consumers.rekey.stage import RekeyStage, RekeySummary

__all__ = ["RekeyMetrics", "RekeyStage", "RekeySummary"]
