"""The circuit breaker that all stages of a worker share."""

import threading
from collections import Counter

import pytest

from pipeline.errors import Stopped, Unavailable
from pipeline.ingest.circuit_breaker import CircuitBreaker
from tests.support.waiting import eventually


def patience(retries: Counter[str] | None = None, *, longest_s: float = 0.02) -> CircuitBreaker:
    counted = Counter[str]() if retries is None else retries
    return CircuitBreaker(0.01, longest_s, lambda stage: counted.update([stage]))


def test_a_call_is_repeated_until_it_succeeds() -> None:
    retries: Counter[str] = Counter()
    waiting = patience(retries)
    answers = iter([Unavailable("away"), Unavailable("still"), None])
    seen: list[dict[str, str]] = []

    def call() -> str:
        seen.append(dict(waiting.trouble))
        error = next(answers)
        if error is not None:
            raise error
        return "done"

    assert waiting.persist("write", call) == "done"
    assert seen == [{}, {"write": "away"}, {"write": "still"}]
    assert retries == {"write": 2}
    assert waiting.trouble == {}


def test_an_outage_sees_one_call_at_a_time_from_all_stages() -> None:
    waiting = patience()
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
        threading.Thread(target=waiting.persist, args=(name, lambda name=name: call(name)), daemon=True)
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
    assert waiting.trouble == {}


def test_another_error_passes_through_and_leaves_the_way_free() -> None:
    waiting = patience()

    def fail() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        waiting.persist("plan", fail)
    assert waiting.persist("plan", lambda: 1) == 1


def test_the_end_wakes_whoever_waits() -> None:
    waiting = patience(longest_s=60)
    ended: list[BaseException] = []

    def away() -> None:
        raise Unavailable("away")

    def run() -> None:
        try:
            waiting.persist("write", away)
        except Stopped as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    eventually(lambda: waiting.trouble, within=5)
    waiting.end()
    thread.join(5)
    assert len(ended) == 1
