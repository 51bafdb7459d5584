"""The query worker's HTTP application: the layers around its routes, and the routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from consumers.http.operations import Operations, Problems, exposition, routing_problem
from consumers.http.problems import ErrorBoundaryMiddleware
from consumers.query.admission import Admission, UntilSent
from consumers.query.openapi import publish
from consumers.query.routes.openai_embeddings import EmbeddingsRequest, add_embeddings
from consumers.query.routes.openai_search import VectorStoreSearchRequest, add_vector_store_search
from consumers.query.routes.search import add_search
from consumers.query.searches import Searches
from pipeline.query import EmbeddingService, SearchService, request_model


def create_app(
    service: SearchService,
    ready: Problems,
    *,
    registry: CollectorRegistry,
    embeddings: EmbeddingService | None = None,
) -> FastAPI:
    """The HTTP application, which closes the service at its end. `ready` may block, see Operations.

    Without `embeddings` texts are not embedded for clients.

    As many searches are admitted at a time as the service has threads; more are answered 429.
    """
    operations = Operations(exposition(registry), alive=dict, ready=ready)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()
        operations.close()

    # The documentation pages of FastAPI load scripts from a CDN; /openapi.json stays.
    app = FastAPI(
        title="milvus-stream",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # the redirect would lead to whatever the Host header says
        lifespan=lifespan,
    )
    app.add_middleware(UntilSent)
    app.add_middleware(ErrorBoundaryMiddleware)
    app.add_exception_handler(HTTPException, routing_problem)
    admission = Admission(service.concurrency)
    searches = Searches(service, admission)
    add_search(app, service, admission)
    add_vector_store_search(app, searches)
    if embeddings is not None:
        add_embeddings(app, embeddings, admission)
    app.router.routes.extend(operations.routes())
    publish(app, [request_model(service.max_results), EmbeddingsRequest, VectorStoreSearchRequest])
    return app
