"""The searches of every way in but `/v1/search`: a request of its own, in the words of our search request."""

from contextlib import ExitStack
from functools import partial
from typing import Any

from starlette.requests import Request

from consumers.query.admission import Admission
from consumers.query.routes.search import log_search
from pipeline.query import CollectionDescription, SearchAnswer, SearchAnswers, SearchService


class Searches:
    """Runs searches for clients of another API: each is admitted and logged as one of `/v1/search`."""

    def __init__(self, service: SearchService, admission: Admission) -> None:
        self.service = service
        self._admission = admission

    async def of_request(self, request: Request, body: dict[str, Any]) -> SearchAnswer | SearchAnswers:
        """Answer a body of POST /v1/search for an HTTP request. Raises as `SearchService.answer`."""
        admit = partial(self._admission.admit, request)
        return await self.service.answer(body, admit=admit, report=log_search)

    async def of_call(self, body: dict[str, Any], _: Request | None) -> SearchAnswer | SearchAnswers:
        """Answer a body for a call that ends with its answer, such as that of a tool. Raises as `of_request`.

        The request that the call came with may have ended before: its place would never be given back.
        """
        with ExitStack() as held:

            def admit() -> None:
                held.enter_context(self._admission.place())

            return await self.service.answer(body, admit=admit, report=log_search)

    async def describe(self, _: Request | None) -> CollectionDescription:
        """Describe the collection for a call. Raises Overloaded, Unavailable, Mismatch, DeadlinePassed."""
        with self._admission.place():
            return await self.service.describe()
