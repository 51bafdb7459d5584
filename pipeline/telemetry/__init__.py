"""Metrics and logs of the workers, and text that is safe to print."""

from pipeline.telemetry.logging import configure_logging
from pipeline.telemetry.metrics import OUTCOMES, FlushRole, IngestMetrics, QueryMetrics, RecordOutcomes
from pipeline.telemetry.printable import printable

__all__ = ["OUTCOMES", "FlushRole", "IngestMetrics", "QueryMetrics", "RecordOutcomes", "configure_logging", "printable"]
