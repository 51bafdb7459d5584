"""`milvus-stream ingest`: probes first, then model and connections, then the worker."""

import threading

from consumers.config import Settings
from consumers.http import ProbeServer
from consumers.ingest import Summary
from consumers.wiring import connections, documents
from consumers.wiring.ingest import ingest_metrics, ingest_worker
from pipeline.telemetry.process_memory import frozen


def run(
    settings: Settings,
    stop: threading.Event,
    *,
    until_caught_up: bool,
    max_records: int | None,
    adopt: bool = False,
    accept_gap: bool = False,
) -> Summary:
    """Run an ingest worker until `stop`, it has caught up or it fails. Raises its first error.

    `adopt` and `accept_gap` as in `ingest_worker`.
    """
    metrics = ingest_metrics()
    telemetry = settings.telemetry
    with (
        ProbeServer("ingest", telemetry.host, telemetry.port, metrics.registry) as probes,
        connections.milvus(settings, metrics.observe_sink) as api,
        documents.embedder(settings) as model,
    ):
        worker = ingest_worker(
            settings,
            api,
            model,
            until_caught_up=until_caught_up,
            max_records=max_records,
            adopt=adopt,
            accept_gap=accept_gap,
            metrics=metrics,
        )
        probes.watch(alive=worker.alive, ready=worker.ready)
        with frozen():
            return worker.run(stop)
