"""`milvus-stream ingest`: probes first, then connections and checks, then the model, then the worker."""

from contextlib import ExitStack

from consumers.cli.common.signals import StopSignals
from consumers.config import Settings
from consumers.http import ProbeServer
from consumers.ingest import Summary
from consumers.wiring import connections, documents
from consumers.wiring.ingest import ingest_metrics, ingest_worker
from consumers.wiring.start_checks import check_ingest
from consumers.wiring.validation import check_settings
from pipeline.telemetry.process_memory import frozen


def run(
    settings: Settings,
    stop: StopSignals,
    *,
    until_caught_up: bool,
    max_records: int | None,
    adopt: bool = False,
    accept_gap: bool = False,
) -> Summary:
    """Run an ingest worker until `stop`, it has caught up or it fails. Raises its first error.

    `adopt` and `accept_gap` as in `ingest_worker`.
    """
    check_settings(settings)
    metrics = ingest_metrics()
    telemetry = settings.telemetry
    with ExitStack() as stack:
        probes = stack.enter_context(ProbeServer("ingest", telemetry.host, telemetry.port, metrics.registry))
        api = stack.enter_context(connections.milvus(settings, metrics.observe_sink))
        check_ingest(settings, api, adopt=adopt)
        model = stack.enter_context(documents.embedder(settings))
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
            stop.end_in_order()
            return worker.run(stop)
