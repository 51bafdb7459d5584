"""`milvus-stream ingest`: probes first, then everything that takes long, then the worker."""

import threading

from consumers.config import Settings
from consumers.http.probe_server import SidePort
from consumers.ingest.progress import Summary
from consumers.wiring import common as wiring
from consumers.wiring import ingest as ingest_wiring


def run(settings: Settings, stop: threading.Event, *, until_caught_up: bool, max_records: int | None) -> Summary:
    """Run an ingest worker until `stop`, it has caught up or it fails; its first error is raised."""
    metrics = ingest_wiring.ingest_metrics()
    with (
        SidePort("ingest", settings.telemetry, metrics.registry) as side_port,
        wiring.milvus(settings, metrics.observe_sink) as api,
        wiring.embedder(settings) as model,
    ):
        process = ingest_wiring.ingest(
            settings, api, model, until_caught_up=until_caught_up, max_records=max_records, metrics=metrics
        )
        side_port.watch(alive=process.worker.alive, ready=process.worker.ready)
        return process.run(stop)
