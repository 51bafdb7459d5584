"""The limit on concurrent searches: each counts from when its request is valid until its answer has been sent."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.query import Overloaded

_HELD = "milvus_stream.held"


class Admission:
    """A count of places; those taken by `admit` are given back when the answer is sent or its sending has failed.

    A client that does not read its answer thus keeps its place, and no more memory goes to such clients.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0

    def admit(self, request: Request) -> None:
        """Take a place for the rest of this request; raises Overloaded where none is free."""
        held: ExitStack = request.scope[_HELD]
        held.enter_context(self.place())

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place; raises Overloaded where none is free."""
        if self._taken >= self._places:
            raise Overloaded(f"{self._places} searches are under way, as many as allowed; try again")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    @contextmanager
    def during(self) -> Iterator[Callable[[], None]]:
        """A function that takes a place until the end of the block; it raises Overloaded where none is free."""
        with ExitStack() as held:
            yield lambda: held.enter_context(self.place())


class UntilSent:
    """The layer around an application that gives the places of `Admission` back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        with ExitStack() as held:
            scope[_HELD] = held
            await self._app(scope, receive, send)
