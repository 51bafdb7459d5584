"""`milvus-stream serve`: connect, load the model, answer searches."""

from consumers.config import Settings
from consumers.query.server import serve
from consumers.wiring import connections, documents
from consumers.wiring.query import query_app
from pipeline.telemetry.process_memory import frozen


def run(settings: Settings) -> None:
    """Run a query worker until SIGTERM. Raises Mismatch for a collection of another model."""
    with (
        connections.milvus(settings) as api,
        documents.embedder(settings) as model,
        query_app(settings, api, model) as app,
        frozen(),
    ):
        serve(app, settings.query.host, settings.query.port, drain_s=settings.shutdown_timeout.total_seconds())
