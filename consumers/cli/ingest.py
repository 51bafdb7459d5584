"""`milvus-stream ingest`: probes first, then connections and checks, then the model, then the worker."""

from contextlib import ExitStack

from consumers.cli.common.signals import StopSignals
from consumers.config import Settings
from consumers.http import ProbeServer, exposition
from consumers.ingest import Summary
from consumers.supervisor import TOO_MANY_REJECTED, Supervised, share_of
from consumers.wiring import connections, documents
from consumers.wiring.ingest import ingest_metrics, ingest_worker
from consumers.wiring.start_checks import check_ingest
from consumers.wiring.telemetry import probe_listener
from consumers.wiring.validation import check_settings
from pipeline.errors import TooManyRejected
from pipeline.telemetry.process_memory import frozen


def run(
    settings: Settings,
    stop: StopSignals,
    *,
    until_caught_up: bool,
    max_records: int | None,
    adopt: bool = False,
    accept_gap: bool = False,
    supervised: Supervised | None = None,
) -> Summary:
    """Run an ingest worker until `stop`, it has caught up or it fails. Raises its first error.

    `adopt` and `accept_gap` as in `ingest_worker`. `supervised`: one of the workers of a supervisor.
    """
    check_settings(settings)
    metrics = ingest_metrics()
    listener = probe_listener(settings) if supervised is None else supervised.listener()
    if supervised is not None:
        settings = _with_its_cores(settings, supervised)
    workers = supervised.count if supervised is not None and supervised.number == 0 else 1
    with ExitStack() as stack:
        probes = stack.enter_context(
            ProbeServer("ingest", listener, exposition(metrics.registry), announce=supervised is None)
        )
        api = stack.enter_context(connections.milvus(settings, metrics.observe_sink))
        check_ingest(settings, api, adopt=adopt, workers=workers)
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
            try:
                return worker.run(stop)
            except TooManyRejected as error:
                if supervised is not None:
                    error.exit_code = TOO_MANY_REJECTED
                raise


def _with_its_cores(settings: Settings, supervised: Supervised) -> Settings:
    """The settings of one of several workers, which share the cores of this machine."""
    if settings.embedding.threads is not None:
        return settings
    from pipeline.embedding import available_cpus

    threads = share_of(available_cpus(), supervised.count)
    return settings.model_copy(update={"embedding": settings.embedding.model_copy(update={"threads": threads})})
