"""Queries that arrive at the same time, embedded in one forward pass."""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RateLimited, Unavailable

_Vectors = NDArray[np.float32]


class _Request:
    """Texts that one caller waits for."""

    __slots__ = ("result", "texts")

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.result: Future[_Vectors] = Future()


class QueryBatcher:
    """Embeds texts together that have arrived while the model worked on the ones before, at most `max_batch` of them.

    A text that arrives while the model is idle waits for no others. One thread runs the model. At most `max_waiting`
    texts wait; vectors of the last `cache_size` texts are kept.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[str]], _Vectors],
        *,
        max_batch: int = 32,
        max_waiting: int = 256,
        cache_size: int = 1024,
    ) -> None:
        """`embed` is `Embedder.embed_queries`; it is called from the batcher's own thread only."""
        self._embed = embed
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._cache_size = cache_size
        self._cache: OrderedDict[str, _Vectors] = OrderedDict()
        self._changed = threading.Condition()
        self._requests: deque[_Request] = deque()
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="embed-queries", daemon=True)
        self._thread.start()

    async def embed(self, texts: Sequence[str]) -> _Vectors:
        """Vectors of the texts, shape (n, dimension), in the order given.

        Raises `RateLimited` when too many texts wait already, `Unavailable` after `close`, and whatever the model
        raises. Cancelling the call takes its texts out of the next batch.
        """
        if not texts:
            return np.empty((0, 0), dtype=np.float32)
        request = self._submit(texts)
        return await asyncio.wrap_future(request.result)

    def close(self) -> None:
        """Finish the batch under way, refuse what waits with `Unavailable`, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _submit(self, texts: Sequence[str]) -> _Request:
        request = _Request(texts)
        with self._changed:
            if self._closed:
                raise Unavailable("the query worker is closing")
            known = [self._cache.get(text) for text in texts]
            if all(row is not None for row in known):
                for text in texts:
                    self._cache.move_to_end(text)
                request.result.set_result(np.stack([row for row in known if row is not None]))
                return request
            if self._waiting + len(texts) > self._max_waiting:
                raise RateLimited(f"{self._waiting} queries wait for the model already; try again later")
            self._waiting += len(texts)
            self._requests.append(request)
            self._changed.notify_all()
        return request

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            wanted = [request for request in batch if request.result.set_running_or_notify_cancel()]
            texts = list(dict.fromkeys(text for request in wanted for text in request.texts))
            try:
                rows = dict(zip(texts, self._embed(texts), strict=True)) if texts else {}
                answers = [np.stack([rows[text] for text in request.texts]) for request in wanted]
            except Exception as error:  # the edge of this thread: who waits gets the error, and the next batch is tried
                for request in wanted:
                    request.result.set_exception(error)
                continue
            self._remember(rows)
            for request, answer in zip(wanted, answers, strict=True):
                request.result.set_result(answer)

    def _next_batch(self) -> list[_Request] | None:
        """Wait for requests and take them; None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._requests or self._closed)
            if self._closed:
                for request in self._requests:
                    if request.result.set_running_or_notify_cancel():
                        request.result.set_exception(Unavailable("the query worker is closing"))
                self._requests.clear()
                return None
            batch: list[_Request] = []
            count = 0
            while self._requests and (not batch or count + len(self._requests[0].texts) <= self._max_batch):
                batch.append(self._requests.popleft())
                count += len(batch[-1].texts)
            self._waiting -= count
            return batch

    def _remember(self, rows: dict[str, _Vectors]) -> None:
        with self._changed:
            for text, row in rows.items():
                if np.isfinite(row).all():  # a fault of the moment must not stay
                    self._cache[text] = row.copy()  # a view would keep its whole batch
                    self._cache.move_to_end(text)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
