"""`milvus-stream ingest`: probes first, then model and connections, then the worker."""

import threading

from consumers.config import Settings
from consumers.http import ProbeServer, exposition
from consumers.ingest import Summary
from consumers.supervisor import TOO_MANY_REJECTED, Supervised, share_of
from consumers.wiring import connections, documents
from consumers.wiring.ingest import ingest_metrics, ingest_worker
from consumers.wiring.telemetry import probe_listener
from pipeline.errors import TooManyRejected
from pipeline.telemetry.process_memory import frozen


def run(
    settings: Settings,
    stop: threading.Event,
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
    metrics = ingest_metrics()
    listener = probe_listener(settings) if supervised is None else supervised.listener()
    with ProbeServer("ingest", listener, exposition(metrics.registry), announce=supervised is None) as probes:
        if supervised is not None:
            settings = _with_its_cores(settings, supervised)
        with (
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
                workers=supervised.count if supervised is not None and supervised.number == 0 else 1,
            )
            probes.watch(alive=worker.alive, ready=worker.ready)
            with frozen():
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
