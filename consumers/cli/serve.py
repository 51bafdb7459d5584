"""`milvus-stream serve`: connect, check, load the model, answer searches."""

from contextlib import ExitStack

from consumers.config import Settings
from consumers.http import check_address
from consumers.query.server import serve
from consumers.wiring import connections, documents
from consumers.wiring.collection import search_params
from consumers.wiring.query import query_app
from consumers.wiring.start_checks import check_serve
from pipeline.telemetry.process_memory import frozen


def run(settings: Settings) -> None:
    """Run a query worker until SIGTERM. Raises UsageError (address, setting), Mismatch (another model)."""
    host, port = settings.query.host, settings.query.port
    # Opened only when there is a model: until then a client is refused at once and need not wait.
    check_address("query", host, port)
    search_params(settings)
    with ExitStack() as stack:
        api = stack.enter_context(connections.milvus(settings))
        check_serve(settings, api)
        model = stack.enter_context(documents.embedder(settings, queries_first=True))
        app = stack.enter_context(query_app(settings, api, model))
        stack.enter_context(frozen())
        serve(app, host, port, drain_s=settings.shutdown_timeout.total_seconds())
