"""The query worker's HTTP application: the layers around its routes, and the routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from consumers.http.operations import Operations, Problems, exposition, routing_problem
from consumers.http.problems import ErrorBoundaryMiddleware
from consumers.query.access import Access, AccessLayer
from consumers.query.admission import Admission, UntilSent
from consumers.query.openapi import publish
from consumers.query.routes.search import add_search
from consumers.query.web import Page, PageLayer
from pipeline.query import SearchService, request_model


def create_app(
    service: SearchService,
    ready: Problems,
    *,
    registry: CollectorRegistry,
    access: Access | None = None,
    page: Page | None = None,
) -> FastAPI:
    """The HTTP application, which closes the service at its end. `ready` may block, see Operations.

    `access`: what a caller needs; None: nothing, for an application that only this machine can reach. As many searches
    are admitted at a time as the service has threads; more are answered 429. `page`: None for none.
    """
    operations = Operations(exposition(registry), alive=dict, ready=ready)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
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
    app.add_middleware(UntilSent)
    app.add_middleware(AccessLayer, access=access or Access())
    if page is not None:
        app.add_middleware(PageLayer)
    app.add_middleware(ErrorBoundaryMiddleware)
    app.add_exception_handler(HTTPException, routing_problem)
    admission = Admission(service.concurrency)
    add_search(app, service, admission)
    app.router.routes.extend(operations.routes())
    if page is not None:
        app.router.routes.extend(page.routes(admission))
    publish(app, [request_model(service.max_results)])
    return app
