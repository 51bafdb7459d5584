"""Concurrent queries go through the model together, and every caller gets its own answer or error."""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import RateLimited, Unavailable
from pipeline.query import QueryBatcher


class Model:
    """Vectors that hold the text's length; can be held back, and can fail."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.threads: set[int] = set()
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.entered.set()
        assert self.free.wait(10)
        self.calls.append(list(texts))
        self.threads.add(threading.get_ident())
        if "bad" in texts:
            raise Unavailable("the model is gone")
        value = [np.nan if text == "nan" else float(len(text)) for text in texts]
        return np.array([[number, 1.0] for number in value], dtype=np.float32)


async def _blocked(model: Model, batcher: QueryBatcher) -> "asyncio.Task[NDArray[np.float32]]":
    """A query that is inside the model and stays there until `model.free` is set."""
    model.free.clear()
    model.entered.clear()
    task = asyncio.create_task(batcher.embed(["first"]))
    assert await asyncio.to_thread(model.entered.wait, 10)
    return task


def test_every_caller_gets_the_rows_of_its_texts_in_order() -> None:
    model = Model()

    async def ask() -> list[NDArray[np.float32]]:
        return await asyncio.gather(*(batcher.embed(["x" * size, "yy", "x" * size]) for size in range(1, 30)))

    with closing(QueryBatcher(model.embed)) as batcher:
        answers = asyncio.run(ask())
    assert [answer[:, 0].tolist() for answer in answers] == [[size, 2, size] for size in range(1, 30)]
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


def test_what_waits_while_the_model_works_goes_through_it_together() -> None:
    model = Model()

    async def ask() -> None:
        first = await _blocked(model, batcher)
        others = [asyncio.create_task(batcher.embed([f"text {number % 5}"])) for number in range(10)]
        await asyncio.sleep(0)
        model.free.set()
        await asyncio.gather(first, *others)

    with closing(QueryBatcher(model.embed)) as batcher:
        asyncio.run(ask())
    assert model.calls == [["first"], [f"text {number}" for number in range(5)]]


def test_a_batch_is_bounded() -> None:
    model = Model()

    async def ask() -> None:
        first = await _blocked(model, batcher)
        others = [asyncio.create_task(batcher.embed([f"a{number}", f"b{number}"])) for number in range(6)]
        await asyncio.sleep(0)
        model.free.set()
        await asyncio.gather(first, *others)

    with closing(QueryBatcher(model.embed, max_batch=5)) as batcher:
        asyncio.run(ask())
    assert [len(call) for call in model.calls] == [1, 4, 4, 4]


def test_too_many_waiting_texts_are_refused_and_the_others_served() -> None:
    model = Model()

    async def ask() -> list[object]:
        first = await _blocked(model, batcher)
        others = [asyncio.create_task(batcher.embed([f"{number}"])) for number in range(5)]
        await asyncio.sleep(0)
        model.free.set()
        return list(await asyncio.gather(first, *others, return_exceptions=True))

    with closing(QueryBatcher(model.embed, max_waiting=3)) as batcher:
        answers = asyncio.run(ask())
    assert [isinstance(answer, RateLimited) for answer in answers] == [False] * 4 + [True] * 2


def test_an_error_reaches_every_caller_of_the_batch_and_the_next_batch_is_served() -> None:
    model = Model()

    async def ask() -> list[object]:
        first = await _blocked(model, batcher)
        others = [asyncio.create_task(batcher.embed([text])) for text in ("bad", "good")]
        await asyncio.sleep(0)
        model.free.set()
        await first
        failed = await asyncio.gather(*others, return_exceptions=True)
        return [*failed, await batcher.embed(["good"])]

    with closing(QueryBatcher(model.embed)) as batcher:
        bad, good, again = asyncio.run(ask())
    assert isinstance(bad, Unavailable)
    assert isinstance(good, Unavailable)
    assert isinstance(again, np.ndarray)


def test_the_last_texts_are_remembered_and_no_more_than_allowed() -> None:
    model = Model()

    async def ask(*texts: str) -> None:
        for text in texts:
            await batcher.embed([text])

    with closing(QueryBatcher(model.embed, cache_size=2)) as batcher:
        asyncio.run(ask("a", "b", "a", "c", "a", "b"))
    assert model.calls == [["a"], ["b"], ["c"], ["b"]]


def test_a_vector_that_is_not_finite_is_not_remembered() -> None:
    model = Model()

    async def ask() -> None:
        for _ in range(2):
            await batcher.embed(["nan"])

    with closing(QueryBatcher(model.embed)) as batcher:
        asyncio.run(ask())
    assert model.calls == [["nan"], ["nan"]]


def test_a_cancelled_query_does_not_reach_the_model() -> None:
    model = Model()

    async def ask() -> None:
        first = await _blocked(model, batcher)
        given_up, kept = (asyncio.create_task(batcher.embed([text])) for text in ("given up", "kept"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        model.free.set()
        await asyncio.gather(first, kept)

    with closing(QueryBatcher(model.embed)) as batcher:
        asyncio.run(ask())
    assert model.calls == [["first"], ["kept"]]


def test_closing_finishes_the_batch_under_way_and_refuses_the_rest() -> None:
    model = Model()
    batcher = QueryBatcher(model.embed)

    async def ask() -> list[object]:
        first = await _blocked(model, batcher)
        waiting = asyncio.create_task(batcher.embed(["waits"]))
        await asyncio.sleep(0)
        closing_now = asyncio.create_task(asyncio.to_thread(batcher.close))
        model.free.set()
        answers: list[object] = [*await asyncio.gather(first, waiting, return_exceptions=True)]
        await closing_now
        with pytest.raises(Unavailable, match="closing"):
            await batcher.embed(["late"])
        return answers

    first, waiting = asyncio.run(ask())
    assert isinstance(first, np.ndarray)
    assert isinstance(waiting, Unavailable | np.ndarray)


def test_no_texts_are_no_rows() -> None:
    with closing(QueryBatcher(Model().embed)) as batcher:
        assert len(asyncio.run(batcher.embed([]))) == 0
