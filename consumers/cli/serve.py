"""`milvus-stream serve`: connect, check, load the model, answer searches."""

from contextlib import ExitStack

import structlog
from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.http import ProbeServer, check_address, exposition, listen
from consumers.query.server import serve
from consumers.wiring import connections, documents
from consumers.wiring.access import query_access
from consumers.wiring.collection import search_params
from consumers.wiring.query import query_app
from consumers.wiring.start_checks import check_serve
from pipeline.errors import UsageError
from pipeline.telemetry.process_memory import frozen

log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Run a query worker until SIGTERM. Raises UsageError (address, setting), Mismatch (another model)."""
    host, port = settings.query.host, settings.query.port
    # Opened only when there is a model: until then a client is refused at once and need not wait.
    local = check_address("query", host, port)
    access = query_access(settings, local=local)
    search_params(settings)
    with ExitStack() as stack:
        registry = CollectorRegistry()
        probes = _probes(settings, registry)
        if probes is not None:
            stack.enter_context(probes)
        api = stack.enter_context(connections.milvus(settings, fail_fast=True))
        check_serve(settings, api)
        model = stack.enter_context(documents.embedder(settings, queries_first=True))
        app = stack.enter_context(query_app(settings, api, model, access=access, registry=registry, probes=probes))
        stack.enter_context(frozen())
        local_only = not access.authenticates and settings.query.auth.mode != "none"
        serve(app, host, port, local_only=local_only, drain_s=settings.shutdown_timeout.total_seconds())


def _probes(settings: Settings, registry: CollectorRegistry) -> ProbeServer | None:
    """The server on `query.telemetry_port`, which answers from the start. Raises UsageError (address)."""
    if settings.query.telemetry_port is None:
        return None
    host, port = settings.telemetry.host, settings.query.telemetry_port
    try:
        listener = listen("telemetry", host, port)
    except UsageError as error:
        raise UsageError(
            f"cannot listen on telemetry.host {host}, query.telemetry_port {port}: "
            f"{error.__cause__}; choose another port, or 0 for any free one"
        ) from error
    probes = ProbeServer("query", listener, exposition(registry), announce=False)
    log.info("query.telemetry_listening", address=probes.address)
    return probes
