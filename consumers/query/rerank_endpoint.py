"""A reranker behind HTTP, in the shape of TEI or of Cohere. What it answers is checked before it orders anything."""

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any, Literal

import httpx
from typing_extensions import override

from consumers.clients.http_client import at_most, http_client
from pipeline.query import Reranker, RerankFailed

_BATCH = 32
"""Texts of one request to TEI, whose own bound is 32 unless configured; more are answered 413."""
_MOST_BYTES = 1024 * 1024
"""Of an answer: 200 scores are some 10 KB."""
_MOST_CHARS = 32_768
"""Of a text; what is behind is not sent, as no reranker reads it."""
_BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
_SLACK_S = 0.25
_CLOSING = "the query worker is closing"


class _TooLarge(Exception):
    """The server takes no request with so many texts."""


class RerankEndpoint(Reranker):
    """Asks a server, on an event loop and thread of its own, so that a slow answer cannot outlast its time."""

    def __init__(
        self,
        url: str,
        shape: Literal["tei", "cohere"],
        *,
        model: str | None = None,
        key: str | None = None,
    ) -> None:
        """`url`: without the path. `model`: its name there, for shape cohere. `key`: the bearer token.

        Raises UsageError where a proxy or certificates that the environment names cannot be used.
        """
        self._address = url.rstrip("/") + ("/rerank" if shape == "tei" else "/v2/rerank")
        self._shape = shape
        self._model = model
        # Compressed answers are not asked for and not read: a small one could become a huge one.
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        self._client = http_client(self._address, None, headers)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rerank", daemon=True)
        self._thread.start()

    @override
    def scores(self, query: str, texts: Sequence[str], timeout_s: float) -> list[float]:
        asked = self._scores(_sendable(query), [_sendable(text) for text in texts], timeout_s)
        try:
            found = asyncio.run_coroutine_threadsafe(asked, self._loop)
        except RuntimeError as error:  # of a loop that is closed
            asked.close()
            raise RerankFailed("failed", _CLOSING) from error
        try:
            return found.result(timeout_s + _SLACK_S)
        except TimeoutError:
            found.cancel()
            raise RerankFailed("timeout") from None
        except CancelledError:
            raise RerankFailed("failed", _CLOSING) from None

    @override
    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """End what is under way, so that no search waits for it any more, and close the connections."""
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._client.aclose()

    async def _scores(self, query: str, texts: Sequence[str], timeout_s: float) -> list[float]:
        try:
            async with asyncio.timeout(timeout_s):
                if self._shape == "cohere":
                    return await self._of_cohere(query, texts)
                return await self._of_batches(query, texts)
        except (TimeoutError, httpx.TimeoutException):
            raise RerankFailed("timeout") from None
        except _TooLarge:
            raise RerankFailed("failed", "the server answers 413: the texts are more than it takes") from None
        except RerankFailed:
            raise
        except Exception as error:  # the edge of this loop: the search that waits keeps its order, whatever it was
            # Not its message, in which a header that cannot be sent would be the key.
            raise RerankFailed("failed", f"the request to the server ended with {type(error).__name__}") from None

    async def _of_batches(self, query: str, texts: Sequence[str]) -> list[float]:
        """The scores of all texts, by several requests at a time; where one fails, the others are ended."""
        try:
            async with asyncio.TaskGroup() as group:
                batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
                answers = [group.create_task(self._of_tei(query, batch)) for batch in batches]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [score for answer in answers for score in answer.result()]

    async def _of_tei(self, query: str, texts: Sequence[str]) -> list[float]:
        """The scores of some texts; halved where the server takes fewer. Raises _TooLarge where it takes not one."""
        try:
            answer = await self._answer({"query": query, "texts": texts, "truncate": True})
        except _TooLarge:
            if len(texts) == 1:
                raise
            middle = len(texts) // 2
            return [*await self._of_tei(query, texts[:middle]), *await self._of_tei(query, texts[middle:])]
        return scores_of(answer, len(texts), "score")

    async def _of_cohere(self, query: str, texts: Sequence[str]) -> list[float]:
        body = {"model": self._model, "query": query, "documents": texts, "top_n": len(texts)}
        answer = await self._answer(body)
        results = answer.get("results") if isinstance(answer, dict) else None
        return scores_of(results, len(texts), "relevance_score")

    async def _answer(self, body: Mapping[str, Any]) -> Any:
        """The JSON of an answer. No redirect is followed: it would take the texts and the key elsewhere."""
        async with self._client.stream("POST", self._address, json=body) as response:
            if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
                raise _TooLarge
            if response.status_code in _BUSY:
                raise RerankFailed("overloaded", f"the server answers {response.status_code}")
            if response.status_code != httpx.codes.OK:
                raise RerankFailed("failed", f"the server answers {response.status_code}")
            if (content := await at_most(response.aiter_raw(), _MOST_BYTES)) is None:
                raise RerankFailed("failed", f"the server answers more than {_MOST_BYTES:,} bytes")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise RerankFailed("failed", "the server answers no JSON") from None


def scores_of(results: Any, count: int, name: str) -> list[float]:
    """The scores of `count` texts, in their order, out of a list of {index, `name`}.

    Raises RerankFailed unless each text is there exactly once, with a number from 0 to 1.
    """
    if not isinstance(results, list) or len(results) != count:
        raise RerankFailed("failed", f"the server does not answer a list of {count} scores")
    scores: dict[int, float] = {}
    for result in results:
        index, score = (result.get("index"), result.get(name)) if isinstance(result, dict) else (None, None)
        if type(index) is not int or not 0 <= index < count or index in scores:
            raise RerankFailed("failed", "the server answers an index that is none of a text, or twice the same")
        # Also false for NaN.
        if not (isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1):
            raise RerankFailed("failed", f"the server answers a {name} that is no number from 0 to 1")
        scores[index] = float(score)
    return [scores[index] for index in range(count)]


def _sendable(text: str) -> str:
    """The beginning of a text, without halves of surrogate pairs, which JSON in UTF-8 cannot have."""
    return text[:_MOST_CHARS].encode("utf-8", "replace").decode()
