"""The query worker's HTTP application: the routes translate, SearchService does the work."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NotRequired

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from prometheus_client import CollectorRegistry
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.responses import Response
from typing_extensions import TypedDict

from consumers.http.operations import Operations, Problems, exposition, routing_problem
from consumers.http.problems import ErrorBoundaryMiddleware, problem_of
from consumers.query.admission import Admission, UntilSent
from consumers.query.body import read_body
from pipeline.query import MAX_BODY_BYTES, SearchAnswer, SearchAnswers, SearchReport, SearchService, request_model

_DESCRIPTION = """Find the documents that fit a text by meaning, by exact words, or by both.

`mode` `dense` compares vectors, `keyword` words (BM25), `hybrid` fuses both orders; without one a search is hybrid
where the collection has a keyword index, which Milvus 2.5 and newer fill. The answer says which it was. A `query` that
is a list is answered with `answers`, one for each text in the same order; a single text with `results`.
Results are ordered by `score`, higher is better. Only the newest version of a document is shown, and with `group_by`
`doc_id` (the default) only its best chunk. `searched` names the Milvus partitions that were read and those the time
range left out; `partial` says that the time ran out before enough documents were collected. `limit` times the number of
texts and the bytes of the results are bounded; a request beyond is answered 422."""

_ERRORS = {
    400: "The body is not JSON.",
    413: "The body is too large.",
    415: "The body is not declared as application/json.",
    422: "The request is not valid; `at` is the JSON pointer of what is wrong.",
    429: "Too many searches at a time; see Retry-After.",
    500: "Internal error.",
    503: "Milvus or the model cannot be used at the moment; see Retry-After.",
    504: "No result in the time of the request.",
}
_COMPONENT = "#/components/schemas/"

_log = structlog.get_logger(__name__)


class ProblemBody(TypedDict, total=True):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    at: NotRequired[str]


def create_app(service: SearchService, ready: Problems, *, registry: CollectorRegistry) -> FastAPI:
    """The HTTP application, which closes the service at its end. `ready` may block, see Operations.

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
    _add_search(app, service, Admission(service.concurrency))
    app.router.routes.extend(operations.routes())
    _document(app, service.max_results)
    return app


def _add_search(app: FastAPI, service: SearchService, admission: Admission) -> None:
    request_content = {"application/json": {"schema": {"$ref": f"{_COMPONENT}SearchRequest"}}}
    problem_content = {"application/problem+json": {"schema": {"$ref": f"{_COMPONENT}ProblemBody"}}}
    problems: dict[int | str, dict[str, Any]] = {
        status: {"description": reason, "content": problem_content} for status, reason in _ERRORS.items()
    }

    @app.post(
        "/v1/search",
        summary="Search",
        description=_DESCRIPTION,
        responses={200: {"model": SearchAnswer | SearchAnswers}, **problems},
        openapi_extra={"requestBody": {"required": True, "content": request_content}},
    )
    async def search(request: Request) -> Response:
        try:
            body = await read_body(request, MAX_BODY_BYTES)
            answer = await service.answer(body, admit=partial(admission.admit, request), report=log_search)
        except Exception as error:
            return problem_of(error).response()
        return Response(orjson.dumps(answer), media_type="application/json")


def log_search(report: SearchReport) -> None:
    """Log one line for a search that has ended; never its texts, its filter or what it found."""
    facts: dict[str, Any] = {}
    if (request := report.request) is not None:
        facts.update(queries=len(request.queries), limit=request.limit, filtered=request.filter is not None)
    if report.error is not None:
        problem = problem_of(report.error)
        facts.update(problem.more or {}, status=problem.status, problem=problem.code)
        log = _log.exception if problem.status == 500 else _log.warning
        log("search.failed", **facts, reason=problem.reason or problem.detail)
    elif (answer := report.answer) is not None:
        results = [answer.results] if isinstance(answer, SearchAnswer) else [one.results for one in answer.answers]
        _log.info(
            "search.answered",
            status=200,
            **facts,
            mode=answer.mode,
            results=sum(map(len, results)),
            partial=answer.partial,
            partitions_searched=len(answer.searched.partitions),
            partitions_skipped=len(answer.searched.skipped),
            embed_ms=answer.timing_ms.embed,
            search_ms=answer.timing_ms.search,
            total_ms=answer.timing_ms.total,
        )


def _document(app: FastAPI, max_results: int) -> None:
    """Publish the schemas of what the search route reads and answers itself, derived from the same types."""
    document: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not document:
            document.update(get_openapi(title=app.title, version=app.version, routes=app.routes))
            document["components"]["schemas"].update(_schemas(max_results))
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


def _schemas(max_results: int) -> dict[str, Any]:
    request: TypeAdapter[Any] = TypeAdapter(request_model(max_results))
    problem: TypeAdapter[Any] = TypeAdapter(ProblemBody)
    _, schemas = TypeAdapter.json_schemas(
        [("request", "validation", request), ("problem", "serialization", problem)],
        ref_template=f"{_COMPONENT}{{model}}",
    )
    definitions: dict[str, Any] = schemas["$defs"]
    return definitions
