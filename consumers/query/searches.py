"""The searches of every way in but `/v1/search`: a request of its own, in the words of our search request."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from starlette.requests import Request

from consumers.http.problems import problem_of
from consumers.query.access import caller_of, note
from consumers.query.admission import Admission
from consumers.query.routes.search import log_and_note, log_search
from pipeline.errors import MilvusStreamError
from pipeline.query import (
    CollectionDescription,
    DocumentStatistics,
    InvalidRequest,
    ListedDocument,
    SearchAnswer,
    SearchAnswers,
    SearchService,
)

_log = structlog.get_logger(__name__)


class Searches:
    """Runs searches for clients of another API: each is admitted and logged as one of `/v1/search`."""

    def __init__(self, service: SearchService, admission: Admission, *, local: bool = False) -> None:
        """`local`: calls come without a request, of a process on this machine that may see every document."""
        self.service = service
        self._local = local
        self.admission = admission

    async def of_request(self, request: Request, body: dict[str, Any]) -> SearchAnswer | SearchAnswers:
        """Answer a body of POST /v1/search for an HTTP request. Raises as `SearchService.answer`."""
        admit = partial(self.admission.admit, request)
        return await self._answer(body, request, admit)

    async def of_call(self, body: dict[str, Any], request: Request | None) -> SearchAnswer | SearchAnswers:
        """Answer a body for a call that ends with its answer, such as that of a tool. Raises as `of_request`.

        The request that the call came with may have ended before: its place would never be given back.
        """
        with self.admission.during() as admit:
            return await self._answer(body, request, admit)

    async def _answer(
        self, body: dict[str, Any], request: Request | None, admit: Callable[[], None]
    ) -> SearchAnswer | SearchAnswers:
        report = log_search if request is None else partial(log_and_note, request)
        return await self.service.answer(body, tenant=self.tenant_of(request), admit=admit, report=report)

    async def describe(self, request: Request | None) -> CollectionDescription:
        """Describe the collection for a call. Raises Overloaded, Unavailable, Mismatch, DeadlinePassed."""
        with self.admission.place():
            return await self.service.describe(tenant=self.tenant_of(request))

    async def statistics(self, request: Request) -> DocumentStatistics:
        """Count the documents. Raises as `describe`."""
        with self._read():
            return await self.service.statistics(tenant=self.tenant_of(request))

    async def documents(self, request: Request, rows: dict[str, Any] | None) -> list[ListedDocument]:
        """List the documents that a filter matches. Raises as `describe`, and InvalidRequest at /filter."""
        with self._read():
            listed = await self.service.documents(rows, tenant=self.tenant_of(request))
        note(request, results=len(listed))
        return listed

    @contextmanager
    def _read(self) -> Iterator[None]:
        """Hold a place, and log a failure that is not the client's."""
        try:
            with self.admission.place():
                yield
        except MilvusStreamError as error:
            if (problem := problem_of(error)).status >= 500:
                _log.warning("listing.failed", problem=problem.code, reason=problem.reason or problem.detail)
            raise

    def tenant_of(self, request: Request | None) -> str | None:
        """Whose documents the caller may see; RuntimeError where it is not known who calls."""
        if request is not None:
            return caller_of(request).tenant
        if not self._local:
            raise RuntimeError("the call has lost its request, which says whose documents it may see")
        return None


@contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Let a refused key of our search request be called as the client calls it, without what is inside it."""
    try:
        yield
    except InvalidRequest as error:
        ours = error.at.split("/")[1:2]
        if ours and ours[0] in names:
            raise InvalidRequest(f"/{names[ours[0]]}", error.detail) from error
        raise
