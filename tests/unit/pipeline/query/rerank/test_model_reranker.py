"""The thread of a local cross-encoder: what it scores, what it gives up, and how its failures arrive."""

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.query import ModelReranker, RerankFailed
from pipeline.query.rerank.model_reranker import sigmoid
from tests.support.waiting import Gate, eventually

Passes = Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]


class Model:
    """Two passes, the second half of the texts first; `before` is called before each."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.before = before
        self.ran = 0
        self.closed = False

    def passes(self, query: str, texts: Sequence[str]) -> Passes:
        half = len(texts) // 2
        for part in (range(half, len(texts)), range(half)):
            self.before()
            self.ran += 1
            yield np.array(part), np.array([float(texts[index]) for index in part], np.float32)

    def close(self) -> None:
        self.closed = True


def test_scores_come_in_the_order_of_the_texts() -> None:
    model = Model()
    reranker = ModelReranker(model)
    scores = reranker.scores("q", ["0", "2", "-2", "1000", "-1000"], 30)
    assert scores == pytest.approx([0.5, 0.880797, 0.119203, 1.0, 0.0], abs=1e-6)
    reranker.close()
    assert model.closed
    with pytest.raises(RerankFailed):
        reranker.scores("q", ["0"], 30)


def test_what_nobody_waits_for_ends_with_the_pass_under_way() -> None:
    gate = Gate()
    model = Model(gate)
    reranker = ModelReranker(model)
    with pytest.raises(RerankFailed) as late:
        reranker.scores("q", ["0", "1"], 0.01)
    assert late.value.reason == "timeout"
    gate.await_call()
    gate.open()
    reranker.close()
    assert model.ran == 1


def test_what_waits_too_long_is_never_begun() -> None:
    gate = Gate()
    model = Model(gate)
    reranker = ModelReranker(model)
    answers: list[list[float]] = []
    first = threading.Thread(target=lambda: answers.append(reranker.scores("q", ["0", "0"], 60)))
    first.start()
    gate.await_call()
    with pytest.raises(RerankFailed):
        reranker.scores("q", ["1", "1"], 0.01)
    gate.open()
    first.join()
    reranker.close()
    assert (answers, model.ran) == ([[0.5, 0.5]], 2)


def test_closing_waits_for_the_pass_under_way_only() -> None:
    gate = Gate()
    failures: list[RerankFailed] = []

    def search() -> None:
        with pytest.raises(RerankFailed) as failed:
            reranker.scores("q", ["0", "1"], 60)
        failures.append(failed.value)

    model = Model(gate)
    reranker = ModelReranker(model)
    waiting = threading.Thread(target=search)
    waiting.start()
    gate.await_call()
    closing = threading.Thread(target=reranker.close)
    closing.start()
    eventually(lambda: reranker._thread._shutdown)
    gate.open()
    closing.join()
    waiting.join()
    assert (model.ran, model.closed, [failure.reason for failure in failures]) == (1, True, ["failed"])


@pytest.mark.parametrize("error", [RuntimeError("bad_alloc"), TimeoutError("x"), ValueError("y")])
def test_an_error_of_the_model_is_a_failure_and_the_next_query_is_scored(error: Exception) -> None:
    errors = [error]

    def before() -> None:
        if errors:
            raise errors.pop()

    reranker = ModelReranker(Model(before))
    with pytest.raises(RerankFailed) as failed:
        reranker.scores("q", ["0", "1"], 30)
    assert failed.value.reason == "failed"
    assert reranker.scores("q", ["0", "0"], 30) == [0.5, 0.5]
    reranker.close()


def test_a_score_that_is_no_number_is_a_failure() -> None:
    reranker = ModelReranker(Model())
    with pytest.raises(RerankFailed) as failed:
        reranker.scores("q", ["0", "nan"], 30)
    assert failed.value.reason == "failed"
    reranker.close()


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
def test_the_sigmoid_is_bounded_and_keeps_the_order(logits: list[float]) -> None:
    scores = sigmoid(np.array(logits))
    assert ((scores >= 0) & (scores <= 1)).all()
    order = np.argsort(logits, kind="stable")
    assert (np.diff(scores[order]) >= 0).all()
