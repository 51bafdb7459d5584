"""A reranker that runs a cross-encoder of this machine, on a thread of its own."""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.embedding import CrossEncoder
from pipeline.query.rerank.reranker import Reranker, RerankFailed

_CLOSING = "the query worker is closing"


class ModelReranker(Reranker):
    """Scores one query after another; what nobody waits for any more ends with the pass under way."""

    def __init__(self, model: CrossEncoder) -> None:
        """Owns the model: `close` closes it."""
        self._model = model
        self._closing = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rerank")

    @override
    def scores(self, query: str, texts: Sequence[str], timeout_s: float) -> list[float]:
        given_up = threading.Event()
        try:
            found = self._thread.submit(self._run, query, texts, given_up)
        except RuntimeError as error:  # of an executor that was shut down
            raise RerankFailed("failed", _CLOSING) from error
        return [float(score) for score in sigmoid(self._waited(found, given_up, timeout_s))]

    @override
    def close(self) -> None:
        self._closing.set()
        self._thread.shutdown(cancel_futures=True)
        self._model.close()

    def _waited(
        self, found: "Future[NDArray[np.float64]]", given_up: threading.Event, timeout_s: float
    ) -> NDArray[np.float64]:
        try:
            return found.result(timeout_s)
        except TimeoutError:
            raise RerankFailed("timeout") from None
        except CancelledError as error:
            raise RerankFailed("failed", _CLOSING) from error
        finally:
            given_up.set()
            found.cancel()

    def _run(self, query: str, texts: Sequence[str], given_up: threading.Event) -> NDArray[np.float64]:
        logits = np.full(len(texts), np.nan)
        try:
            for batch, found in self._model.passes(query, texts):
                logits[batch] = found
                if given_up.is_set():
                    raise RerankFailed("timeout")
                if self._closing.is_set():
                    raise RerankFailed("failed", _CLOSING)
        except Exception as error:  # the edge of this thread: who waits gets the error, and the next query is tried
            if isinstance(error, RerankFailed):
                raise
            raise RerankFailed("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
        if not np.isfinite(logits).all():
            raise RerankFailed("failed", "the model gave a score that is no number")
        return logits


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) without overflow: from 0 to 1."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
