"""The page of the query worker: its routes, and what surrounds each of them."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from consumers.http import Problem, problem_of
from consumers.http.named_route import NamedRoute
from consumers.query.access import Caller, caller_of
from consumers.query.admission import Admission
from consumers.query.web.document import DocumentPage
from consumers.query.web.keys import KeyPage
from consumers.query.web.overviews import Overviews
from consumers.query.web.parts import PageParts
from consumers.query.web.refreshed import Refreshed
from consumers.query.web.render import html, static_files
from consumers.query.web.search import SearchPage

_PARTITIONS_TTL_S = 30.0
_PIPELINE_TTL_S = 10.0
_KEPT = {"cache-control": "public, max-age=31536000, immutable"}

Answer: TypeAlias = Callable[[Request, Caller], Awaitable[Response]]
"""Answers a request of a caller."""
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
            answers["/freshness"] = overviews.freshness
        routes: list[BaseRoute] = [NamedRoute(path, self._guarded(answer)) for path, answer in answers.items()]
        if parts.access.authenticates:
            routes.append(Route("/key", KeyPage(parts.access).answer, methods=["GET", "POST"]))
        return [*routes, Route("/static/{name}", _static)]

    def close(self) -> None:
        """Read nothing more in the background."""
        for part in (self._partitions, self._pipeline):
            if part is not None:
                part.close()

    def _guarded(self, answer: Answer) -> Handler:
        """The handler of a page: an error is a page, too."""

        async def handle(request: Request) -> Response:
            caller = caller_of(request)
            try:
                return await answer(request, caller)
            except Exception as error:
                problem = problem_of(error)
                if problem.status == 500:
                    _log.exception("page.failed", path=request.url.path, error=type(error).__name__)
                else:
                    _log_refusal(request.url.path, problem)
                frame = self._parts.frame(caller, "")
                words = {"title": problem.title, "detail": problem.detail}
                return html("message.html", problem.status, problem.headers, **frame, **words)

        return handle


def _log_refusal(path: str, problem: Problem) -> None:
    _log.warning("page.failed", path=path, status=problem.status, reason=problem.reason or problem.detail)


async def _static(request: Request) -> Response:
    """A file of the package, which browsers keep: its address changes with its content."""
    file = static_files().get(request.path_params["name"])
    if file is None:
        return Problem(404, "not-found", "No such path", "there is no such file").response()
    return Response(file.content, headers=_KEPT, media_type=file.media_type)
