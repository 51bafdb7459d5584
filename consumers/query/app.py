"""The query worker's HTTP application: routes only translate, SearchService does the work."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.responses import Response

from consumers.http.operations import Operations, Problems, routing_problem
from consumers.http.problems import ErrorBoundaryMiddleware, problem_of
from consumers.query.admission import Admission, UntilSent
from consumers.query.body import read_body
from consumers.query.openapi import DESCRIPTION, problem_responses, request_schemas
from consumers.query.service import Batcher, SearchService
from pipeline.query.answer import SearchAnswer, SearchAnswers
from pipeline.query.limits import Limits
from pipeline.query.search import Searcher
from pipeline.telemetry import QueryMetrics


def create_app(
    searcher: Searcher,
    batcher: Batcher,
    limits: Limits,
    ready: Problems,
    *,
    registry: CollectorRegistry,
    metrics: QueryMetrics,
    concurrency: int = 32,
) -> FastAPI:
    """The HTTP application. `ready` may block, see Operations; `concurrency`: searches at a time, more are 429."""
    service = SearchService(searcher, batcher, limits, metrics, concurrency)
    operations = Operations(registry, alive=dict, ready=ready)

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
    _add_search(app, service, limits, Admission(concurrency))
    app.router.routes.extend(operations.routes())
    _document(app, limits)
    return app


def _add_search(app: FastAPI, service: SearchService, limits: Limits, admission: Admission) -> None:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/SearchRequest"}}}

    @app.post(
        "/v1/search",
        summary="Search",
        description=DESCRIPTION,
        responses={200: {"model": SearchAnswer | SearchAnswers}, **problem_responses()},
        openapi_extra={"requestBody": {"required": True, "content": content}},
    )
    async def search(request: Request) -> Response:
        try:
            body = await read_body(request, limits.max_body_bytes)
            found = await service.answer(body, partial(admission.admit, request))
        except Exception as error:
            return problem_of(error).response()
        return Response(orjson.dumps(found), media_type="application/json")


def _document(app: FastAPI, limits: Limits) -> None:
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(get_openapi(title=app.title, version=app.version, routes=app.routes))
            made.setdefault("components", {}).setdefault("schemas", {}).update(request_schemas(limits))
        return made

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
