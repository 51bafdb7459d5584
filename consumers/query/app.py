"""The query worker's HTTP application: the layers around its routes, and the routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from consumers.http.operations import Operations, Problems, exposition, routing_problem
from consumers.http.problems import ErrorBoundaryMiddleware
from consumers.query.access import Access, AccessLayer
from consumers.query.admission import Admission, UntilSent
from consumers.query.encoding import CompressedAnswers, UnpackedBodies
from consumers.query.head import HeadAsGet
from consumers.query.mcp.sources import StoredDocuments
from consumers.query.mcp.tools import Tools
from consumers.query.openapi import publish
from consumers.query.origins import NO_ORIGINS, OriginLayer, Origins
from consumers.query.refusals import HeldRefusals
from consumers.query.routes.documents import add_documents
from consumers.query.routes.freshness import add_freshness
from consumers.query.routes.openai_embeddings import EmbeddingsRequest, add_embeddings
from consumers.query.routes.openai_search import VectorStoreSearchRequest, add_vector_store_search
from consumers.query.routes.pathway import MODELS, add_pathway
from consumers.query.routes.search import add_search
from consumers.query.routes.similar import add_similar
from consumers.query.searches import Searches
from consumers.query.web import Page, PageLayer
from pipeline.query import (
    DocumentService,
    EmbeddingService,
    SearchService,
    cursor_request_model,
    request_model,
    similar_model,
)

if TYPE_CHECKING:
    from consumers.query.mcp.http import McpEndpoint


def create_app(
    service: SearchService,
    ready: Problems,
    *,
    registry: CollectorRegistry,
    access: Access | None = None,
    embeddings: EmbeddingService | None = None,
    mcp: bool = False,
    page: Page | None = None,
    origins: Origins = NO_ORIGINS,
) -> FastAPI:
    """The HTTP application, which closes the service at its end. `ready` may block, see Operations.

    `access`: what a caller needs; None: nothing, for an application that only this machine can reach. Without
    `embeddings` texts are not embedded for clients. `mcp`: answer `/mcp`, too; it needs the package mcp. `page`: None
    for none. `origins`: the web sites whose scripts may use the API.

    As many searches are admitted at a time as the service has threads; more are answered 429.
    """
    operations = Operations(exposition(registry), alive=dict, ready=ready)
    admission = Admission(service.concurrency)
    searches = Searches(service, admission)
    documents = DocumentService(service)
    tools = _mcp_endpoint(searches, documents, origins) if mcp else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            async with nullcontext() if tools is None else tools.running():
                yield
        finally:
            service.close()
            if page is not None:
                page.close()
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
    _add_layers(app, access or Access(), origins, pages=page is not None)
    app.add_exception_handler(HTTPException, routing_problem)
    _add_routes(app, service, documents=documents, searches=searches, embeddings=embeddings, admission=admission)
    if tools is not None:
        app.router.routes.append(tools.route())
    app.router.routes.extend(operations.routes())
    if page is not None:
        app.router.routes.extend(page.routes(admission))
    most = service.max_results
    searched = (request_model(most), cursor_request_model(most), similar_model(most))
    publish(app, [*searched, EmbeddingsRequest, VectorStoreSearchRequest, *MODELS])
    return app


def _add_layers(app: FastAPI, access: Access, origins: Origins, *, pages: bool) -> None:
    """The layers around the routes, from the innermost to the outermost."""
    app.add_middleware(HeadAsGet)
    app.add_middleware(UnpackedBodies)
    app.add_middleware(UntilSent)
    app.add_middleware(HeldRefusals)
    app.add_middleware(AccessLayer, access=access)
    if pages:
        app.add_middleware(PageLayer)
    app.add_middleware(OriginLayer, origins=origins)
    app.add_middleware(CompressedAnswers)
    app.add_middleware(ErrorBoundaryMiddleware)


def _add_routes(
    app: FastAPI,
    service: SearchService,
    *,
    documents: DocumentService,
    searches: Searches,
    embeddings: EmbeddingService | None,
    admission: Admission,
) -> None:
    """The routes below `/v1`."""
    add_search(app, service, admission)
    add_documents(app, documents, admission)
    add_similar(app, documents, admission)
    add_vector_store_search(app, searches)
    add_pathway(app, searches)
    if embeddings is not None:
        add_embeddings(app, embeddings, admission)
    if service.freshness is not None:
        add_freshness(app, service.freshness)


def _mcp_endpoint(searches: Searches, documents: DocumentService, origins: Origins) -> "McpEndpoint":
    from consumers.query.mcp.http import McpEndpoint  # noqa: PLC0415 - the package may not be installed

    return McpEndpoint(Tools(searches, StoredDocuments(documents, searches), searches.service.freshness), origins)
