"""Metrics and logs of the workers, and text that is safe to print.

The metrics are imported on first use: prometheus_client takes a tenth of a second that most commands do not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.telemetry.printable import printable

if TYPE_CHECKING:
    from pipeline.telemetry.logging import configure_logging
    from pipeline.telemetry.metrics import OUTCOMES, FlushRole, IngestMetrics, QueryMetrics, RecordOutcomes

__all__ = ["OUTCOMES", "FlushRole", "IngestMetrics", "QueryMetrics", "RecordOutcomes", "configure_logging", "printable"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "logging" if name == "configure_logging" else "metrics"
    return getattr(import_module(f"{__name__}.{module}"), name)
