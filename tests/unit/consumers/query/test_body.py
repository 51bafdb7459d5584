"""The body of a request: its bound, and the bound of all large ones together."""

import asyncio
from collections.abc import Iterable, Iterator

import pytest
from starlette.requests import Request
from starlette.types import Message

from consumers.http.problems import HttpProblem
from consumers.query.body import LargeBodies, read_body
from pipeline.query import MAX_BODY_BYTES, MAX_SEARCH_BODY_BYTES, Overloaded

SMALL = MAX_BODY_BYTES


class Sender:
    """A request whose body comes in pieces; `more` is set for each piece that may be sent."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self.more = asyncio.Semaphore(0)
        self.read = 0
        headers = [(b"content-type", b"application/json")]
        self.request = Request({"type": "http", "method": "POST", "headers": headers}, self._receive)

    async def _receive(self) -> Message:
        await self.more.acquire()
        piece = next(self._pieces, b"")
        self.read += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    def whole(self) -> "Sender":
        for _ in range(100):
            self.more.release()
        return self


def read(pieces: Iterable[bytes], limit: int = MAX_SEARCH_BODY_BYTES, large: LargeBodies | None = None) -> bytes:
    async def one() -> bytes:
        return await read_body(Sender(pieces).whole().request, limit, large)

    return asyncio.run(one())


def test_a_body_up_to_its_limit() -> None:
    large = LargeBodies()
    assert read([b"x" * 60_000] * 17, 17 * 60_000, large) == b"x" * 17 * 60_000
    assert read([b"x" * SMALL], SMALL) == b"x" * SMALL
    for limit, budget in ((SMALL, None), (17 * 60_000 - 1, large)):
        with pytest.raises(HttpProblem) as refused:
            read([b"x" * 60_000] * 17, limit, budget)
        assert refused.value.problem.status == 413


def test_what_large_bodies_may_take_together_is_bounded() -> None:
    large = LargeBodies(100_000)

    async def run() -> None:
        first = Sender([b"x" * SMALL, b"x" * 80_000, b"x"])
        reading = asyncio.create_task(read_body(first.request, MAX_SEARCH_BODY_BYTES, large))
        first.more.release()
        first.more.release()
        while first.read < SMALL + 80_000:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await read_body(Sender([b"x" * (SMALL + 20_001)]).whole().request, MAX_SEARCH_BODY_BYTES, large)
        small = await read_body(Sender([b"x" * SMALL]).whole().request, MAX_SEARCH_BODY_BYTES, large)
        assert len(small) == SMALL, "a small one needs nothing of it"
        assert len(await read_body(Sender([b"x" * (SMALL + 19_000)]).whole().request, MAX_SEARCH_BODY_BYTES, large))
        first.whole()
        assert len(await reading) == SMALL + 80_001

    asyncio.run(run())
    assert len(read([b"x" * (SMALL + 100_000)], large=large)) == SMALL + 100_000, "what was taken is given back"


def test_what_a_failed_body_took_is_given_back() -> None:
    large = LargeBodies(100_000)
    for _ in range(3):
        with pytest.raises(Overloaded):
            read([b"x" * (SMALL + 60_000), b"x" * 60_000], large=large)
    assert len(read([b"x" * (SMALL + 100_000)], large=large)) == SMALL + 100_000
