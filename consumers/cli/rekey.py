"""`milvus-stream rekey`: probes first, then the stage."""

from consumers.cli.common.signals import StopSignals
from consumers.config import Settings
from consumers.http import ProbeServer, exposition
from consumers.rekey import RekeyMetrics, RekeySummary
from consumers.wiring.rekey import rekey_stage
from consumers.wiring.telemetry import probe_listener
from pipeline.telemetry.process_memory import frozen


def run(settings: Settings, target: str, stop: StopSignals) -> RekeySummary:
    """Forward records until `stop` or the stage fails. Raises its first error."""
    metrics = RekeyMetrics()
    with ProbeServer("rekey", probe_listener(settings), exposition(metrics.registry)) as probes:
        stage = rekey_stage(settings, target, metrics)
        probes.watch(alive=stage.alive, ready=stage.ready)
        with frozen():
            stop.end_in_order()
            return stage.run(stop)
