"""Both HTTP servers on real sockets: what slow, idle, deaf and too many clients can do, hosts, addresses, probes."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial

import pytest

from consumers.http import server as http_server
from consumers.http.server import listen
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, DOCUMENTS, Library
from tests.support.rigs.served import Served, ended, probe_server, query_server, reply
from tests.support.waiting import eventually

Serve = Callable[..., AbstractContextManager[Served]]
HALF_HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
HALF_BODY = (
    b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{"
)
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
ANSWER_BYTES = 7_000_000
"""Nearly as long as an answer may be, and more than the kernel buffers."""


@pytest.fixture(params=["query worker", "probe server"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts one of the two."""
    if request.param == "probe server":
        return probe_server
    milvus = FakeMilvus()
    milvus.create_collection(DOCUMENTS)
    return partial(query_server, milvus, COLLECTION)


@pytest.fixture
def served(serve: Serve) -> Iterator[Served]:
    with serve() as running:
        yield running


@pytest.fixture
def long_texts() -> FakeMilvus:
    """Documents whose answer is far larger than what the kernel buffers."""
    milvus = FakeMilvus()
    milvus.create_collection(DOCUMENTS)
    for number in range(400):
        Library(milvus).put(f"{number}", number / 10, id=f"{number:064x}", text="x" * (ANSWER_BYTES // 400))
    return milvus


def search(limit: int = 400) -> bytes:
    body = json.dumps({"query": "q", "limit": limit}).encode()
    head = (
        b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    return head % len(body) + body


# --- time limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", HALF_HEAD, HALF_BODY], ids=["nothing", "half a head", "half a body"])
def test_a_request_that_does_not_arrive_ends_its_connection(
    serve: Serve, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 0.3)
    with serve() as served, closing(served.connect(sent)) as client:
        assert ended(client)
        eventually(lambda: served.open == 0)


def test_a_request_that_drips_in_ends_its_connection(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 0.5)
    stop = threading.Event()

    def drip() -> None:
        try:
            while not stop.wait(0.05):
                client.sendall(b"x")
        except OSError:
            pass

    with closing(served.connect(b"GET /")) as client:
        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert ended(client)
        finally:
            stop.set()
            dripping.join()


def test_a_connection_between_two_requests_is_closed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "KEEP_ALIVE_S", 0.3)
    with serve() as served, closing(served.connect(WHOLE)) as client:
        assert reply(client)[0] == 200
        assert ended(client)


def test_each_request_on_a_connection_has_the_whole_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 1.0)
    with serve() as served, closing(served.connect()) as client:
        pause = threading.Event()
        for _ in range(4):  # 2.4 s in all
            pause.wait(0.4)
            client.sendall(WHOLE[:10])
            pause.wait(0.2)
            client.sendall(WHOLE[10:])
            assert reply(client)[0] == 200


# --- answers that are not read ---------------------------------------------------------------------------------------


def test_a_search_counts_until_its_answer_is_sent_and_sending_ends(
    long_texts: FakeMilvus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "SEND_TIMEOUT_S", 2.0)
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 300.0)
    with query_server(long_texts, COLLECTION, concurrency=2) as served, ExitStack() as clients:
        for _ in range(2):
            clients.enter_context(closing(served.connect(search(), receive_bytes=4096)))
        status = partial(served.answer, "POST", "/v1/search", body='{"query": "q", "limit": 1}')
        eventually(lambda: status()[0] == 429, within=20, what="the places of those that do not read")
        eventually(lambda: status()[0] == 200, within=20, what="their end")
        assert served.answer("GET", "/healthz")[0] == 200


def test_an_answer_that_is_read_slowly_arrives_whole(long_texts: FakeMilvus) -> None:
    with (
        query_server(long_texts, COLLECTION) as served,
        closing(served.connect(search(), receive_bytes=65536)) as client,
    ):
        status, length = reply(client)
        assert status == 200
        assert length > ANSWER_BYTES
        client.sendall(WHOLE)  # and the connection serves on
        assert reply(client)[0] == 200


def test_clients_that_do_not_read_or_write_do_not_hold_up_the_stop(
    long_texts: FakeMilvus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "SEND_TIMEOUT_S", 300.0)
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 300.0)
    monkeypatch.setattr(http_server, "STOPPING_TIMEOUT_S", 0.2)
    with ExitStack() as clients, query_server(long_texts, COLLECTION, concurrency=2) as served:
        for sent in (search(), search(), HALF_BODY, HALF_HEAD, b""):
            clients.enter_context(closing(served.connect(sent, receive_bytes=4096)))
        status = partial(served.answer, "POST", "/v1/search", body='{"query": "q", "limit": 1}')
        eventually(lambda: status()[0] == 429, within=20)
        eventually(lambda: served.open == 5)
        served.server.should_exit = True
        # They would have 60 s.
        eventually(lambda: served.open == 0, within=20)


# --- too many clients ------------------------------------------------------------------------------------------------


def test_probes_are_answered_while_others_hold_every_connection(serve: Serve) -> None:
    with serve() as served, ExitStack() as clients:
        limit = served.server.connections.limit = 8
        for number in range(100):
            sent = (b"", HALF_HEAD, HALF_BODY)[number % 3]
            clients.enter_context(closing(served.connect(sent)))
            assert served.answer("GET", "/healthz")[0] == 200
        eventually(lambda: served.open <= limit)


def test_who_is_being_answered_is_not_dropped_for_a_newcomer(long_texts: FakeMilvus) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def wait(operation: str, collection: str, when: str) -> None:
        entered.set()
        go_on.wait(20)

    with query_server(long_texts, COLLECTION) as served, closing(served.connect(WHOLE)) as idle:
        assert reply(idle)[0] == 200
        served.server.connections.limit = 2
        long_texts.hook = wait
        try:
            with closing(served.connect(search(1))) as busy:
                assert entered.wait(20)
                assert served.answer("GET", "/healthz")[0] == 200
                assert ended(idle)
                go_on.set()
                assert reply(busy)[0] == 200
        finally:
            go_on.set()


# --- hosts and addresses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.8.9.10:8080", "[::1]:9", "[::1]"])
def test_the_names_of_this_machine_are_served_on_loopback(served: Served, host: str) -> None:
    assert served.answer("GET", "/healthz", host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "::1"],
)
def test_other_names_are_refused_on_loopback(served: Served, host: str) -> None:
    for path in ("/healthz", "/metrics", "/v1/search"):
        status, head, body = served.answer("GET", path, host)
        assert status == 421
        assert "application/problem+json" in head
        assert "x-content-type-options: nosniff" in head
        assert json.loads(body)["type"] == "urn:milvus-stream:problem:wrong-host"


def test_every_name_is_served_elsewhere(serve: Serve) -> None:
    with serve(host="0.0.0.0") as served:
        assert served.answer("GET", "/healthz", "search.example")[0] == 200


def test_nothing_redirects_to_the_host_that_was_named(serve: Serve) -> None:
    with serve(host="0.0.0.0") as served:
        for path in ("/metrics/", "/healthz/", "/v1/search/"):
            status, head, _ = served.answer("GET", path, "evil.example")
            assert status == 404
            assert "evil.example" not in head


def test_ipv6(serve: Serve) -> None:
    with serve(host="::1") as served:
        assert served.address == f"http://[::1]:{served.port}"
        assert served.answer("GET", "/healthz", f"[::1]:{served.port}")[0] == 200
        assert served.answer("GET", "/healthz", "evil.example")[0] == 421
    with serve(host="::") as served:
        for host in ("::1", "127.0.0.1"):
            assert Served(host, served.port, served.server).answer("GET", "/healthz")[0] == 200


def test_the_kernel_queues_connections_while_the_server_is_busy(served: Served) -> None:
    """The server accepts one connection at a turn; many come at once."""
    go_on = threading.Event()
    served.server.servers[0].get_loop().call_soon_threadsafe(go_on.wait, 20)
    with ExitStack() as opened:
        try:
            clients = [opened.enter_context(closing(served.connect(WHOLE))) for _ in range(60)]
        finally:
            go_on.set()
        for client in clients:
            assert reply(client)[0] == 200


# --- probes ----------------------------------------------------------------------------------------------------------


def test_probes_have_one_shape(served: Served) -> None:
    assert json.loads(served.answer("GET", "/healthz")[2]) == {"status": "ok", "problems": {}}
    assert json.loads(served.answer("GET", "/readyz")[2]) == {"status": "ok", "problems": {}}
    served.problems["milvus"] = "away"
    status, head, body = served.answer("GET", "/readyz")
    assert (status, json.loads(body)) == (503, {"status": "unavailable", "problems": {"milvus": "away"}})
    assert "content-type: application/json" in head
    assert served.answer("GET", "/healthz")[0] == 200


def test_what_is_common_to_every_answer(served: Served) -> None:
    for method, path, wanted in (
        ("GET", "/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("HEAD", "/healthz", 200),
        ("HEAD", "/readyz", 200),
        ("POST", "/healthz", 405),
        ("GET", "/nothing", 404),
    ):
        status, head, body = served.answer(method, path)
        assert status == wanted, path
        assert "x-content-type-options: nosniff" in head
        assert "server:" not in head.lower()
        assert bool(body) is (method != "HEAD")
        if status >= 400:
            assert json.loads(body)["status"] == status


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(Exception, match=r"telemetry\.host 192\.0\.2\.1, telemetry\.port 0"):
        listen("telemetry", "192.0.2.1", 0)
