"""Refusals for lack of room are held, other answers are not."""

import asyncio
from typing import Any

import pytest

from consumers.query import refusals
from consumers.query.refusals import HeldRefusals


class Held:
    """The layer around an application that answers the status it is given, and a sleep that the test ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept: list[float] = []
        self.awake = asyncio.Event()

        async def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            await self.awake.wait()

        async def app(scope: Any, _: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": scope["status"], "headers": []})
            await send({"type": "http.response.body", "body": b""})

        monkeypatch.setattr("consumers.query.refusals.asyncio.sleep", sleep)
        self.layer = HeldRefusals(app)

    def begin(self, status: int) -> tuple[asyncio.Task[None], list[str]]:
        sent: list[str] = []

        async def send(message: Any) -> None:
            sent.append(message["type"])

        return asyncio.ensure_future(self.layer({"status": status}, None, send)), sent  # type: ignore[arg-type]


def test_a_refusal_is_held_and_then_sent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        held = Held(monkeypatch)
        task, sent = held.begin(429)
        other, answered = held.begin(200)
        await other
        assert (sent, answered) == ([], ["http.response.start", "http.response.body"])
        assert held.slept == [refusals.HELD_S]
        held.awake.set()
        await task
        assert sent == answered

    asyncio.run(run())


def test_only_so_many_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr(refusals, "MOST_HELD", 2)
        held = Held(monkeypatch)
        tasks = [held.begin(429)[0] for _ in range(2)]
        await asyncio.wait(tasks, timeout=0)
        await held.begin(429)[0]
        assert len(held.slept) == 2
        tasks[0].cancel()  # its client has gone away
        await asyncio.wait(tasks[:1])
        again = held.begin(429)[0]
        held.awake.set()
        await asyncio.gather(tasks[1], again)
        assert len(held.slept) == 3

    asyncio.run(run())
