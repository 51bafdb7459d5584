"""The query worker's HTTP application: routes only translate, SearchService does the work."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response

from consumers.query.body import read_body
from consumers.query.openapi import DESCRIPTION, problem_responses, request_schemas
from consumers.query.problems import ErrorBoundaryMiddleware, Problem, http_problem, problem_of
from consumers.query.service import Batcher, SearchService
from pipeline.query.answer import SearchAnswer, SearchAnswers
from pipeline.query.limits import Limits
from pipeline.query.search import Searcher
from pipeline.telemetry.metrics import QueryMetrics

_READY_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether searches can be answered, and what each dependency says."""

    ready: bool
    checks: Mapping[str, str]


def create_app(
    searcher: Searcher,
    batcher: Batcher,
    limits: Limits,
    ready: Callable[[], Readiness],
    *,
    registry: CollectorRegistry,
    metrics: QueryMetrics,
    concurrency: int = 32,
) -> FastAPI:
    """The HTTP application. `ready` may block; it runs on a thread of its own with a time limit."""
    service = SearchService(searcher, batcher, limits, metrics, concurrency)
    probe = ThreadPoolExecutor(1, thread_name_prefix="readiness")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()
        probe.shutdown(wait=False, cancel_futures=True)

    # The documentation pages of FastAPI load scripts from a CDN; /openapi.json stays.
    app = FastAPI(title="milvus-stream", version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(ErrorBoundaryMiddleware)
    app.add_exception_handler(HTTPException, _routing_problem)
    _add_search(app, service, limits)
    _add_operations(app, probe, ready, registry)
    _document(app, limits)
    return app


def _add_search(app: FastAPI, service: SearchService, limits: Limits) -> None:
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
            found = await service.answer(await read_body(request, limits.max_body_bytes))
        except Exception as error:
            return problem_of(error).response()
        return Response(orjson.dumps(found), media_type="application/json")


def _add_operations(
    app: FastAPI, probe: ThreadPoolExecutor, ready: Callable[[], Readiness], registry: CollectorRegistry
) -> None:
    @app.get("/healthz", summary="Whether the process runs")
    async def healthz() -> Response:
        return Response(b'{"status":"ok"}', media_type="application/json")

    @app.get("/readyz", summary="Whether searches can be answered", responses={503: problem_responses()[503]})
    async def readyz() -> Response:
        loop = asyncio.get_running_loop()
        try:
            state = await asyncio.wait_for(loop.run_in_executor(probe, ready), _READY_TIMEOUT_S)
        except TimeoutError:
            state = Readiness(False, {"milvus": f"no answer within {_READY_TIMEOUT_S} s"})
        if not state.ready:
            detail = "; ".join(f"{name}: {text}" for name, text in state.checks.items())
            more = {"checks": dict(state.checks)}
            return Problem(503, "not-ready", "Not ready", detail, "unavailable", more, retry=True).response()
        return Response(orjson.dumps({"status": "ok", "checks": dict(state.checks)}), media_type="application/json")

    @app.get("/metrics", summary="Metrics in Prometheus's format")
    async def metrics() -> Response:
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})


def _document(app: FastAPI, limits: Limits) -> None:
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(get_openapi(title=app.title, version=app.version, routes=app.routes))
            made.setdefault("components", {}).setdefault("schemas", {}).update(request_schemas(limits))
        return made

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


async def _routing_problem(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return http_problem(error.status_code, str(error.detail)).response(error.headers)
