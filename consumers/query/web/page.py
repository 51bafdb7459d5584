"""The page of the query worker: its routes, and what surrounds each of them."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from consumers.http import Problem, problem_of
from consumers.query.admission import Admission
from consumers.query.web.callers import caller, enter_key, from_elsewhere, key_form
from consumers.query.web.document import DocumentPage
from consumers.query.web.overviews import Overviews
from consumers.query.web.parts import PageParts
from consumers.query.web.ports import Access, KeyRefused
from consumers.query.web.refreshed import Refreshed
from consumers.query.web.render import html, static_files
from consumers.query.web.search import SearchPage

_PARTITIONS_TTL_S = 30.0
_PIPELINE_TTL_S = 10.0
_KEPT = {"cache-control": "public, max-age=31536000, immutable"}

Answer: TypeAlias = Callable[[Request, str | None], Awaitable[Response]]
"""Answers a request of a caller who is bound to a tenant, or to none."""
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

_log = structlog.get_logger(__name__)


class Page:
    """The page; made once for an application."""

    def __init__(self, parts: PageParts) -> None:
        self._parts = parts
        partitions, pipeline = parts.partitions, parts.pipeline
        self._partitions = (
            None if partitions is None else Refreshed(partitions, _PARTITIONS_TTL_S, name="page-partitions")
        )
        self._pipeline = None if pipeline is None else Refreshed(pipeline, _PIPELINE_TTL_S, name="page-pipeline")

    def routes(self, admission: Admission) -> list[BaseRoute]:
        """The routes, for the router of an application; searches take places of `admission`."""
        parts = self._parts
        overviews = Overviews(parts, self._partitions, self._pipeline)
        answers: dict[str, Answer] = {
            "/": SearchPage(parts, self._partitions, admission).answer,
            "/partitions": overviews.partitions,
            "/pipeline": overviews.pipeline,
        }
        if parts.documents is not None:
            answers["/document"] = DocumentPage(parts, parts.documents, admission).answer
        if parts.freshness is not None:
            answers["/freshness"] = overviews.freshness(parts.freshness)
        routes: list[BaseRoute] = [Route(path, self._guarded(answer)) for path, answer in answers.items()]
        if parts.access is not None:
            routes.append(Route("/key", self._key(parts.access), methods=["GET", "POST"]))
        return [*routes, Route("/static/{name}", _static)]

    def close(self) -> None:
        """Read nothing more in the background."""
        for part in (self._partitions, self._pipeline):
            if part is not None:
                part.close()

    def _guarded(self, answer: Answer) -> Handler:
        """The handler of a page: not for other web sites, not without a key where one is needed, errors as a page."""

        async def handle(request: Request) -> Response:
            if from_elsewhere(request):
                return self._message(403, "Refused", "Another web site made this request.")
            try:
                return await answer(request, await caller(request, self._parts.access))
            except KeyRefused:
                address = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
                return key_form(address, refused=False)
            except Exception as error:
                problem = problem_of(error)
                if problem.status == 500:
                    _log.exception("page.failed", path=request.url.path, error=type(error).__name__)
                else:
                    _log_refusal(request.url.path, problem)
                return self._message(problem.status, problem.title, problem.detail)

        return handle

    def _key(self, access: Access) -> Handler:
        async def handle(request: Request) -> Response:
            if from_elsewhere(request):
                return self._message(403, "Refused", "Another web site made this request.")
            return await enter_key(request, access) if request.method == "POST" else key_form("/", refused=False)

        return handle

    def _message(self, status: int, title: str, detail: str) -> Response:
        """A page that only says what is wrong; with the tabs of a caller who is bound, because it may be one."""
        return html("message.html", status, **self._parts.frame("", ""), title=title, detail=detail)


def _log_refusal(path: str, problem: Problem) -> None:
    _log.warning("page.failed", path=path, status=problem.status, reason=problem.reason or problem.detail)


async def _static(request: Request) -> Response:
    """A file of the package, which browsers keep: its address changes with its content."""
    file = static_files().get(request.path_params["name"])
    if file is None:
        return Problem(404, "not-found", "No such path", "there is no such file").response()
    return Response(file.content, headers=_KEPT, media_type=file.media_type)
