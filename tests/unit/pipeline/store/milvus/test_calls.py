"""The loop around one call, on a clock of the test's own."""

from collections.abc import Callable
from typing import Any

import pytest
from pymilvus.exceptions import MilvusException

from pipeline.errors import MilvusStreamError, NotLoaded, RateLimited, RowsRefused, Unavailable
from pipeline.store.milvus.calls import RetryingCaller, error_text, unobserved
from pipeline.store.milvus.error_mapping import Call, RetryPolicy

UPSERT = Call("upsert", "documents", "rows")
QUERY = Call("query", "documents")
DOWN = MilvusException(code=2, message="Fail connecting to server")
NOT_LOADED = MilvusException(code=101, message="collection not loaded[collection=1]")


class Server:
    """Answers what the test lays out; each attempt takes `takes_s`, or its deadline if that is sooner."""

    def __init__(self, *answers: Exception | str, takes_s: float = 0.0) -> None:
        self.now = 100.0
        self.answers = list(answers)
        self.takes_s = takes_s
        self.timeouts: list[float] = []
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def call(self, *arguments: Any, timeout: float, retry_on_rate_limit: bool) -> str:
        assert retry_on_rate_limit is False
        self.timeouts.append(timeout)
        self.now += min(self.takes_s, timeout)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def caller(
        self,
        retry: RetryPolicy | None = None,
        observe: Callable[[str, float, MilvusStreamError | None], None] = unobserved,
    ) -> RetryingCaller:
        return RetryingCaller(
            (MilvusException,),
            timeout_s=10.0,
            retry=retry or RetryPolicy(),
            observe=observe,
            clock=lambda: self.now,
            sleep=self.sleep,
        )


def test_a_short_outage_is_not_seen() -> None:
    server = Server(DOWN, DOWN, "done")
    assert server.caller()(UPSERT, server.call) == "done"
    assert len(server.timeouts) == 3


def test_a_long_outage_is_raised_within_the_total() -> None:
    server = Server(DOWN)
    with pytest.raises(Unavailable, match=r"upsert of collection 'documents'.*Fail connecting"):
        server.caller(RetryPolicy(total_s=12.0))(UPSERT, server.call)
    assert 6.0 < server.now - 100.0 <= 12.0


def test_a_hung_server_is_raised_within_the_bound() -> None:
    hung = MilvusException(code=1, message="Retry timeout: 10s")
    server = Server(hung, takes_s=1000.0)
    run = server.caller(RetryPolicy(total_s=12.0))
    with pytest.raises(Unavailable):
        run(UPSERT, server.call)
    assert server.timeouts[0] == 10.0
    assert server.now - 100.0 <= run.longest_s


def test_an_own_total_bounds_everything() -> None:
    server = Server(DOWN, takes_s=0.3)
    with pytest.raises(Unavailable):
        server.caller()(QUERY, server.call, total_s=1.0)
    assert server.now - 100.0 <= 1.0
    assert server.timeouts[0] == 1.0
    assert server.timeouts == sorted(server.timeouts, reverse=True)


def test_a_slow_call_has_its_own_deadline() -> None:
    server = Server("done")
    server.caller()(UPSERT, server.call, attempt_s=300.0)
    assert server.timeouts == [300.0]


def test_what_is_refused_is_refused_once() -> None:
    server = Server(MilvusException(code=1100, message="exceeds max length"))
    with pytest.raises(RowsRefused):
        server.caller()(UPSERT, server.call)
    assert len(server.timeouts) == 1


def test_a_call_can_be_kept_from_repeating() -> None:
    server = Server(MilvusException(code=8, message="rate limit exceeded[rate=0.1]"))
    with pytest.raises(RateLimited):
        server.caller()(UPSERT, server.call, repeat=False)
    assert len(server.timeouts) == 1


def test_not_loaded_is_waited_for_a_minute_if_it_was_loaded() -> None:
    server = Server(*[NOT_LOADED] * 30, "done")
    run = server.caller()
    with pytest.raises(NotLoaded):
        run(QUERY, server.call)
    assert not server.slept
    run.loaded("documents")
    assert run(QUERY, server.call) == "done"
    assert 30.0 < server.now - 100.0 <= 90.0
    run.forget("documents")
    server.answers = [NOT_LOADED]
    with pytest.raises(NotLoaded):
        run(QUERY, server.call)


def test_after_close_nothing_is_called() -> None:
    server = Server("done")
    run = server.caller()
    run.close()
    with pytest.raises(Unavailable, match="closed"):
        run(QUERY, server.call)
    assert not server.timeouts


def test_close_ends_a_call_that_waits() -> None:
    server = Server(DOWN)
    run = RetryingCaller((MilvusException,), timeout_s=10.0, retry=RetryPolicy(), sleep=lambda _: run.close())
    with pytest.raises(Unavailable, match="closed"):
        run(QUERY, server.call)
    assert len(server.timeouts) == 1


def test_every_call_is_observed_with_its_end() -> None:
    seen: list[tuple[str, float, MilvusStreamError | None]] = []
    server = Server(DOWN, "done", takes_s=0.5)
    run = server.caller(observe=lambda *ended: seen.append(ended))
    run(UPSERT, server.call)
    server.answers = [MilvusException(code=1100, message="bad")]
    with pytest.raises(RowsRefused):
        run(UPSERT, server.call)
    assert [(operation, type(error).__name__) for operation, _, error in seen] == [
        ("upsert", "NoneType"),
        ("upsert", "RowsRefused"),
    ]
    assert seen[0][1] == pytest.approx(1.0 + server.slept[0])


def test_a_bug_is_not_taken_for_an_outage() -> None:
    server = Server(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        server.caller()(UPSERT, server.call)


def test_long_answers_are_cut() -> None:
    said = error_text(MilvusException(code=5, message="x\n" * 1000))
    assert len(said) < 340
    assert "\n" not in said
    assert said.endswith("… (code 5)")
