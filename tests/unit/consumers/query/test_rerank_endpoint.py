"""A reranker behind HTTP: what is sent to it, and that no answer of it can be more than a failure."""

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.query.rerank_endpoint import RerankEndpoint, scores_of
from pipeline.query import RerankFailed
from tests.support.waiting import eventually

Answer = tuple[int, dict[str, str], bytes]
KEY = "sesame-0123456789"


class Server:
    """What a server was sent, and how it answers."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.answer = answer
        self.address = ""
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []


def as_json(value: object, status: int = 200) -> Answer:
    return status, {"content-type": "application/json"}, json.dumps(value).encode()


def tei(body: dict[str, Any]) -> Answer:
    """The scores of texts that are numbers, the best first, as TEI gives them."""
    scored = [{"index": index, "score": float(text)} for index, text in enumerate(body["texts"])]
    return as_json(sorted(scored, key=lambda one: -one["score"]))


def cohere(body: dict[str, Any]) -> Answer:
    scored = [{"index": index, "relevance_score": float(text)} for index, text in enumerate(body["documents"])]
    return as_json({"id": "1", "results": scored[::-1], "meta": {}})


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[Server]:
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            status, headers, content = server.answer(body)
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    server.address = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@contextmanager
def endpoint(server: Server, shape: Any = "tei") -> Iterator[RerankEndpoint]:
    made = RerankEndpoint(f"{server.address}/", shape, model="rerank-v3", key=KEY)
    try:
        yield made
    finally:
        made.close()


def texts(count: int) -> list[str]:
    return [str(number / 1000) for number in range(count)]


def failure(answer: Callable[[dict[str, Any]], Answer], shape: Any = "tei", timeout_s: float = 30) -> RerankFailed:
    with serving(answer) as server, endpoint(server, shape) as reranker, pytest.raises(RerankFailed) as failed:
        reranker.scores("q", texts(3), timeout_s)
    assert KEY not in str(failed.value)
    return failed.value


def test_tei_is_asked_in_batches_and_answers_in_any_order() -> None:
    with serving(tei) as server, endpoint(server) as reranker:
        assert reranker.scores("refund", texts(70), 30) == [float(text) for text in texts(70)]
    assert sorted(len(body["texts"]) for _, _, body in server.requests) == [6, 32, 32]
    path, headers, body = server.requests[0]
    assert path == "/rerank"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body["query"] == "refund"
    assert body["truncate"] is True


def test_cohere_is_asked_once() -> None:
    with serving(cohere) as server, endpoint(server, "cohere") as reranker:
        assert reranker.scores("refund", texts(70), 30) == [float(text) for text in texts(70)]
    ((path, _, body),) = server.requests
    assert path == "/v2/rerank"
    assert {name: body[name] for name in ("model", "query", "top_n")} == {
        "model": "rerank-v3", "query": "refund", "top_n": 70,
    }  # fmt: skip


def test_batches_are_halved_where_the_server_takes_fewer() -> None:
    def at_most_five(body: dict[str, Any]) -> Answer:
        return tei(body) if len(body["texts"]) <= 5 else as_json({"error": "batch size"}, 413)

    with serving(at_most_five) as server, endpoint(server) as reranker:
        assert reranker.scores("q", texts(40), 30) == [float(text) for text in texts(40)]
    assert max(len(body["texts"]) for _, _, body in server.requests) == 32


@pytest.mark.parametrize(
    ("status", "reason"), [(413, "failed"), (429, "overloaded"), (503, "overloaded"), (500, "failed"), (401, "failed")]
)
def test_a_status_is_a_failure(status: int, reason: str) -> None:
    assert failure(lambda _: as_json({"error": "no"}, status)).reason == reason


def scored(*pairs: tuple[object, object]) -> list[dict[str, object]]:
    return [{"index": index, "score": score} for index, score in pairs]


HOSTILE: list[object] = [
    None, {}, [], "text", 7, {"results": []},
    scored((0, 0.1), (1, 0.1)),
    scored((0, 0.1), (1, 0.1), (1, 0.2)),
    scored((0, 0.1), (1, 0.1), (3, 0.2)),
    scored((0, 0.1), (1, 0.1), (-1, 0.2)),
    scored((0, 0.1), (1, 0.1), (2.0, 0.2)),
    scored((0, 0.1), (1, 0.1), (True, 0.2)),
    scored((0, 0.1), (1, 0.1), ("2", 0.2)),
    scored((0, 0.1), (1, 0.1), (2, None)),
    scored((0, 0.1), (1, 0.1), (2, "0.2")),
    scored((0, 0.1), (1, 0.1), (2, True)),
    scored((0, 0.1), (1, 0.1), (2, 1.01)),
    scored((0, 0.1), (1, 0.1), (2, -0.01)),
    scored((0, 0.1), (1, 0.1), (2, float("nan"))),
    scored((0, 0.1), (1, 0.1), (2, float("inf"))),
    scored((0, 0.1), (1, 0.1), (2, 0.3), (3, 0.3)),
    [[0, 0.1], [1, 0.1], [2, 0.1]],
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=str)
def test_an_answer_that_does_not_fit_is_a_failure(answer: object) -> None:
    with pytest.raises(RerankFailed) as failed:
        scores_of(answer, 3, "score")
    assert failed.value.reason == "failed"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["index", "score", "x"]), inner),
    max_leaves=15,
)


@given(JSON | st.lists(st.fixed_dictionaries({"index": st.integers(-1, 4), "score": st.floats(-0.5, 1.5)})))
def test_any_answer_is_scores_of_all_texts_or_a_failure(answer: object) -> None:
    try:
        scores = scores_of(answer, 3, "score")
    except RerankFailed:
        return
    assert len(scores) == 3
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000])
def test_what_is_no_json_is_a_failure(content: bytes) -> None:
    assert failure(lambda _: (200, {}, content)).reason == "failed"


def test_a_huge_answer_is_not_read_to_its_end() -> None:
    """It would be a right one."""

    def padded(body: dict[str, Any]) -> Answer:
        status, headers, content = tei(body)
        return status, headers, content + b" " * 3_000_000

    assert failure(padded).reason == "failed"


def test_a_compressed_answer_is_not_unpacked() -> None:
    packed = gzip.compress(json.dumps(scored((0, 0.1), (1, 0.1), (2, 0.1))).encode())
    assert failure(lambda _: (200, {"content-encoding": "gzip"}, packed)).reason == "failed"


def test_a_redirect_is_not_followed() -> None:
    with serving(tei) as other:
        assert failure(lambda _: (307, {"location": f"{other.address}/rerank"}, b"")).reason == "failed"
    assert other.requests == []


def test_nobody_there_is_a_failure() -> None:
    with serving(tei) as server:
        pass
    with endpoint(server) as reranker, pytest.raises(RerankFailed) as failed:
        reranker.scores("q", texts(3), 30)
    assert failed.value.reason == "failed"


def test_a_server_that_never_ends_its_answer_costs_the_time_of_the_request_only() -> None:
    ended = threading.Event()

    def slow(_: dict[str, Any]) -> Answer:
        ended.wait(30)
        return as_json([])

    with serving(slow) as server, endpoint(server) as reranker:
        with pytest.raises(RerankFailed) as failed:
            reranker.scores("q", texts(100), 0.05)
        ended.set()
        assert failed.value.reason == "timeout"
        server.answer = tei
        assert reranker.scores("q", texts(3), 30) == [0.0, 0.001, 0.002]


def test_one_batch_that_fails_is_a_failure_of_all() -> None:
    held = threading.Event()

    def answer(body: dict[str, Any]) -> Answer:
        if len(body["texts"]) == 32:
            held.wait(30)
            return tei(body)
        return as_json({}, 500)

    with serving(answer) as server, endpoint(server) as reranker:
        with pytest.raises(RerankFailed) as failed:
            reranker.scores("q", texts(40), 20)
        assert failed.value.reason == "failed"
        held.set()


def test_halves_of_surrogate_pairs_and_long_texts_are_sent_as_text() -> None:
    with serving(lambda body: as_json(scored((0, 0.5)))) as server, endpoint(server) as reranker:
        assert reranker.scores("\ud800", ["\udfff" + "x" * 100_000], 30) == [0.5]
    ((_, _, body),) = server.requests
    assert body["query"] == "?"
    assert len(body["texts"][0]) == 32_768


def test_a_key_that_no_header_can_hold_is_not_in_the_failure() -> None:
    with serving(tei) as server:
        reranker = RerankEndpoint(server.address, "tei", key="line\nbreak-sesame")
        with pytest.raises(RerankFailed) as failed:
            reranker.scores("q", texts(1), 30)
        reranker.close()
    assert "sesame" not in str(failed.value)


def test_closing_ends_what_waits_for_the_server() -> None:
    """The server takes no more connections, and does not refuse them either."""
    failures: list[RerankFailed] = []

    def search() -> None:
        with pytest.raises(RerankFailed) as failed:
            reranker.scores("q", texts(1), 60)
        failures.append(failed.value)

    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        reranker = RerankEndpoint(f"http://127.0.0.1:{server.getsockname()[1]}", "tei")
        waiting = threading.Thread(target=search, daemon=True)
        waiting.start()
        eventually(lambda: asyncio.all_tasks(reranker._loop))
        reranker.close()
        waiting.join(10)
    assert [failure.reason for failure in failures] == ["failed"]
    with pytest.raises(RerankFailed, match="closing"):
        reranker.scores("q", texts(1), 30)


def test_a_key_for_this_machine_is_not_sent_to_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tei) as proxy, serving(tei) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with endpoint(server) as reranker:
            assert reranker.scores("q", texts(3), 30) == [0.0, 0.001, 0.002]
    assert proxy.requests == []


def test_cohere_that_takes_no_request_of_the_size_is_not_said_to_refuse_one_text() -> None:
    assert "single" not in str(failure(lambda _: as_json({}, 413), "cohere"))
