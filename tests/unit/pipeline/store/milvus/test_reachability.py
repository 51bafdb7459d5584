"""When a Milvus server counts as away and as back, on a clock of the test's own."""

from collections.abc import Iterator

import grpc  # type: ignore[import-untyped]
import pytest
from pymilvus.exceptions import MilvusException

from pipeline.errors import MilvusAway, NotLoaded, RequestRefused, Unavailable
from pipeline.store.milvus.calls import RetryingCaller
from pipeline.store.milvus.error_mapping import Call, RetryPolicy
from pipeline.store.milvus.reachability import INTERVAL_S, PROBE_S, REFUSAL_S, SILENT_S, Reachability
from tests.support.waiting import eventually

FAILURES = (MilvusException, grpc.RpcError)
QUERY = Call("query", "documents")
NOT_READY = MilvusException(code=2, message="service not ready")
BAD_EXPRESSION = MilvusException(code=1100, message="cannot parse expression")


class Status(grpc.RpcError):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.name = name

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode[self.name]

    def details(self) -> str:
        return self.name


REFUSED, HUNG = Status("UNAVAILABLE"), Status("DEADLINE_EXCEEDED")


class Server:
    """Answers calls and probes by `error`: None is an answer."""

    def __init__(self) -> None:
        self.now = 100.0
        self.error: Exception | None = None
        self.calls: list[str] = []
        self.reachability = Reachability(FAILURES, self.probe, lambda: self.now)
        self.run = RetryingCaller(
            FAILURES,
            timeout_s=10.0,
            retry=RetryPolicy(),
            clock=lambda: self.now,
            sleep=self.pass_time,
            reachability=self.reachability,
        )

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def probe(self, timeout_s: float) -> None:
        self._answer("probe", timeout_s)

    def call(self, *, timeout: float, retry_on_rate_limit: bool) -> str:
        assert retry_on_rate_limit is False
        self._answer("call", timeout)
        return "done"

    def query(self) -> str:
        return self.run(QUERY, self.call, total_s=5.0)

    def _answer(self, what: str, timeout_s: float) -> None:
        self.calls.append(what)
        if self.error is HUNG:
            self.pass_time(timeout_s)
        if self.error is not None:
            raise self.error


@pytest.fixture
def server() -> Server:
    return Server()


def test_a_refused_connection_is_found_out_by_one_call_and_further_ones_are_not_sent(server: Server) -> None:
    server.error = REFUSED
    for _ in range(3):
        with pytest.raises(MilvusAway):
            server.query()
    assert (server.calls, server.now) == (["call"], 100.0), "sent once, and nothing waited"
    server.pass_time(7.0)
    with pytest.raises(MilvusAway) as raised:
        server.run.check_reachable()
    assert raised.value.away_s == 7.0


def test_without_the_view_a_refused_connection_is_waited_for(server: Server) -> None:
    patient = RetryingCaller(
        FAILURES, timeout_s=10.0, retry=RetryPolicy(), clock=lambda: server.now, sleep=server.pass_time
    )
    server.error = REFUSED
    with pytest.raises(Unavailable):
        patient(QUERY, server.call, total_s=5.0)
    assert len(server.calls) > 3
    patient.check_reachable()


def test_the_first_probe_that_is_answered_ends_it(server: Server) -> None:
    server.error = REFUSED
    with pytest.raises(MilvusAway):
        server.query()
    assert server.reachability.watch() == INTERVAL_S
    with pytest.raises(MilvusAway):
        server.run.check_reachable()
    server.error = None
    server.reachability.watch()
    assert server.query() == "done"


def test_a_frozen_server_is_away_after_two_probes_without_an_answer(server: Server) -> None:
    server.error = HUNG
    with server.reachability.calling():
        assert server.reachability.watch() == SILENT_S
        assert server.calls == [], "an answer may still come"
        server.pass_time(SILENT_S)
        for count in (1, 2):
            server.run.check_reachable()
            server.reachability.watch()
            assert server.calls == ["probe"] * count
    assert server.now == 100.0 + SILENT_S + 2 * PROBE_S
    with pytest.raises(MilvusAway):
        server.query()


def test_a_slow_server_answers_probes_and_is_not_away(server: Server) -> None:
    with server.reachability.calling():
        for _ in range(10):
            server.pass_time(SILENT_S)
            server.reachability.watch()
            server.run.check_reachable()
        server.error = HUNG
        server.pass_time(SILENT_S)
        server.reachability.watch()
        server.error = None
        server.reachability.watch()
        server.error = HUNG
        server.pass_time(SILENT_S)
        server.reachability.watch()
    server.run.check_reachable()


def test_a_call_that_is_refused_is_an_answer(server: Server) -> None:
    server.error = BAD_EXPRESSION
    with server.reachability.calling():
        server.pass_time(SILENT_S)
        with pytest.raises(RequestRefused):
            server.query()
        server.calls.clear()
        server.reachability.watch()
        assert server.calls == []


def test_a_server_that_says_that_it_is_not_ready_is_waited_for(server: Server) -> None:
    server.error = NOT_READY
    with pytest.raises(Unavailable) as raised:
        server.query()
    assert not isinstance(raised.value, MilvusAway)
    assert server.now > 101.0


def test_who_waited_in_vain_learns_that_the_server_could_not_serve(server: Server) -> None:
    server.error = NOT_READY
    with pytest.raises(Unavailable):
        server.query()
    with pytest.raises(Unavailable, match=r"query of collection 'documents'.*not ready"):
        server.run.check_serving("documents")
    server.pass_time(REFUSAL_S + 1)
    server.run.check_serving("documents")
    with pytest.raises(Unavailable):
        server.query()
    server.error = None
    server.run(Call("describe", "documents"), server.call)
    with pytest.raises(Unavailable, match="not ready"):
        server.run.check_serving("documents")
    server.query()
    server.run.check_serving("documents")
    server.error = BAD_EXPRESSION
    with pytest.raises(RequestRefused):
        server.query()
    server.run.check_serving("documents")


def test_a_refusal_about_one_collection_says_nothing_about_another(server: Server) -> None:
    server.error = MilvusException(code=65535, message="collection not loaded")
    ledger = Call("query", "documents_ledger")
    with pytest.raises(NotLoaded):
        server.run(ledger, server.call)
    server.error = None
    server.run.check_serving("documents")
    server.query()
    with pytest.raises(NotLoaded):
        server.run.check_serving("documents_ledger")
    server.run(ledger, server.call)
    server.run.check_serving("documents_ledger")


def test_nothing_is_sent_while_there_are_no_calls(server: Server) -> None:
    server.query()
    server.pass_time(3600.0)
    server.reachability.watch()
    assert server.calls == ["call"]


@pytest.fixture
def probing() -> Iterator[tuple[Reachability, list[Exception | None]]]:
    answers: list[Exception | None] = [ValueError("a bug of the SDK"), REFUSED, None]

    def probe(_: float) -> None:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is not None:
            raise answer

    reachability = Reachability(FAILURES, probe)
    reachability.start()
    yield reachability, answers
    reachability.close()


def test_the_thread_probes_until_the_server_is_back_whatever_a_probe_raises(
    probing: tuple[Reachability, list[Exception | None]],
) -> None:
    reachability, answers = probing
    reachability.failed(REFUSED)
    with pytest.raises(MilvusAway):
        reachability.check()

    def back() -> bool:
        try:
            reachability.check()
        except MilvusAway:
            return False
        return True

    eventually(back)
    assert answers == [None]
