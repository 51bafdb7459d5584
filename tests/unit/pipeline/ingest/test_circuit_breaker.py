"""The circuit breaker that all stages of a worker share."""

import threading
from collections import Counter

import pytest

from pipeline.backoff import Backoff
from pipeline.errors import Stopped, Unavailable
from pipeline.ingest.circuit_breaker import CircuitBreaker
from tests.support.waiting import eventually


def make_breaker(retries: Counter[str] | None = None, *, longest_s: float = 0.02) -> CircuitBreaker:
    counted = Counter[str]() if retries is None else retries
    return CircuitBreaker(Backoff(0.01, longest_s), lambda stage: counted.update([stage]))


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
