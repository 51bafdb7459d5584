"""The circuit breaker that all stages of a worker share."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from pipeline.backoff import Backoff
from pipeline.errors import MilvusStreamError, Stopped, Unavailable, UnlistedAnswer
from pipeline.ingest.circuit_breaker import CircuitBreaker, RefusalLimit
from tests.support.waiting import eventually


def make_breaker(
    retries: Counter[str] | None = None,
    *,
    longest_s: float = 0.02,
    other_call: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> CircuitBreaker:
    counted = Counter[str]() if retries is None else retries
    return CircuitBreaker(
        Backoff(0.01, longest_s),
        lambda stage: counted.update([stage]),
        other_call=other_call or (lambda: None),
        limit=RefusalLimit(times=3, over_s=60.0),
        clock=clock,
    )


def test_a_call_is_repeated_until_it_succeeds() -> None:
    retries: Counter[str] = Counter()
    breaker = make_breaker(retries)
    answers = iter([Unavailable("away"), Unavailable("still"), None])
    seen: list[dict[str, str]] = []

    def call() -> str:
        seen.append(dict(breaker.waiting_reasons))
        error = next(answers)
        if error is not None:
            raise error
        return "done"

    assert breaker.call("write", call) == "done"
    assert seen == [{}, {"write": "away"}, {"write": "still"}]
    assert retries == {"write": 2}
    assert breaker.waiting_reasons == {}


def test_an_outage_sees_one_call_at_a_time_from_all_stages() -> None:
    breaker = make_breaker()
    lock, calls, most, back = threading.Lock(), [0], [0], threading.Event()
    attempts: list[str] = []

    def call(stage: str) -> None:
        with lock:
            attempts.append(stage)
            calls[0] += 1
            if len(attempts) > 4:  # the first of each stage may come before the outage is known
                most[0] = max(most[0], calls[0])
        try:
            if not back.wait(0.002):
                raise Unavailable("away")
        finally:
            with lock:
                calls[0] -= 1

    threads = [
        threading.Thread(target=breaker.call, args=(name, lambda name=name: call(name)), daemon=True)
        for name in ("plan", "reuse", "write", "flush")
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: len(attempts) > 40, within=10)
    assert most[0] == 1
    back.set()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert breaker.waiting_reasons == {}


def test_another_error_passes_through_and_leaves_the_way_free() -> None:
    breaker = make_breaker()

    def fail() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        breaker.call("plan", fail)
    assert breaker.call("plan", lambda: 1) == 1


def test_the_end_wakes_whoever_waits() -> None:
    breaker = make_breaker(longest_s=60)
    ended: list[BaseException] = []

    def away() -> None:
        raise Unavailable("away")

    def run() -> None:
        try:
            breaker.call("write", away)
        except Stopped as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    eventually(lambda: breaker.waiting_reasons, within=5)
    breaker.end()
    thread.join(5)
    assert len(ended) == 1


def answering(*answers: Exception | None) -> Callable[[], str]:
    """A call that raises these one after the other, the last one for ever."""
    left = list(answers)

    def call() -> str:
        answer = left[0] if len(left) == 1 else left.pop(0)
        if answer is not None:
            raise answer
        return "done"

    return call


UNLISTED = UnlistedAnswer("json key not supported")


def test_a_call_refused_in_unlisted_words_while_others_are_answered_ends_with_the_words() -> None:
    retries: Counter[str] = Counter()
    breaker = make_breaker(retries, clock=map(float, itertools.count(0, 25)).__next__)
    with pytest.raises(MilvusStreamError, match=r"stage plan: .*json key not supported") as ended:
        breaker.call("plan", answering(*9 * [UNLISTED], None))
    assert not isinstance(ended.value, Unavailable)
    # At 0, 25, 50 and 75 s: three times are not enough before 60 s are over.
    assert retries == {"plan": 3}
    assert make_breaker().call("plan", answering(UNLISTED, UNLISTED, UNLISTED, UNLISTED, None)) == "done"


def test_in_an_outage_unlisted_words_are_waited_out() -> None:
    away = 5 * [Unavailable("away")]

    def other_call() -> None:
        raise away.pop()

    breaker = make_breaker(other_call=other_call, clock=map(float, itertools.count(0, 100)).__next__)
    assert breaker.call("plan", answering(*7 * [UNLISTED], None)) == "done"
    assert away == [], "called from the third time on"


def test_an_answer_of_another_kind_begins_the_count_again() -> None:
    breaker = make_breaker(clock=map(float, itertools.count(0, 100)).__next__)
    away = Unavailable("away")
    assert breaker.call("plan", answering(UNLISTED, UNLISTED, away, UNLISTED, UNLISTED, None)) == "done"
    assert breaker.call("plan", answering(UNLISTED, UNLISTED, None)) == "done"
