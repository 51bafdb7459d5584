"""Faults inside a worker's calls, against a real gRPC server."""

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from tests.chaos.injection import HOLD_FLUSHES, LIMIT_WRITES, REFUSE_FLUSHES, FaultyCalls, Switches
from tests.support.waiting import eventually

SERVICE = "/milvus.proto.milvus.MilvusService/"


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call with nothing, which means success, and counts them."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.answering = threading.Event()
        self.answering.set()

    def service(self, details: object) -> object:
        method = details.method.rpartition("/")[2]  # type: ignore[attr-defined]

        def answer(request: bytes, _: object) -> bytes:
            self.seen.append(method)
            self.answering.wait(20)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


class Client:
    def __init__(self, channel: object, switches: Switches, server: Server) -> None:
        self._channel = channel
        self.switches = switches
        self.server = server

    def call(self, method: str, timeout: float = 10.0) -> object:
        """The answer's future, as pymilvus asks for it."""
        kind = milvus_pb2.FlushResponse if method == "Flush" else milvus_pb2.MutationResult
        stub = self._channel.unary_unary(  # type: ignore[attr-defined]
            SERVICE + method, lambda message: b"", response_deserializer=kind.FromString
        )
        return stub.future(milvus_pb2.FlushRequest(), timeout=timeout)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    handler, switches = Server(), Switches(tmp_path)
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", (("grpc.enable_http_proxy", 0),)) as channel:
        yield Client(grpc.intercept_channel(channel, FaultyCalls(switches)), switches, handler)
    handler.answering.set()
    server.stop(None).wait(10)


def test_without_a_fault_calls_pass(client: Client) -> None:
    for method in ("Flush", "Upsert", "Query"):
        client.call(method).result()  # type: ignore[attr-defined]
    assert client.server.seen == ["Flush", "Upsert", "Query"]


def test_a_held_flush_is_sent_when_it_is_let_go_and_its_outcome_stays_unknown(client: Client) -> None:
    client.switches.turn(HOLD_FLUSHES, on=True)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(client.call("Flush").exception()))  # type: ignore[attr-defined]
    thread.start()
    client.call("Upsert").result()  # type: ignore[attr-defined]
    assert client.server.seen == ["Upsert"]
    client.switches.turn(HOLD_FLUSHES, on=False)
    thread.join(10)
    assert client.server.seen[:2] == ["Upsert", "Flush"]
    assert found == [None]


def test_an_answer_that_comes_while_flushes_are_held_is_lost(client: Client) -> None:
    client.server.answering.clear()
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(client.call("Flush").exception()))  # type: ignore[attr-defined]
    thread.start()
    eventually(lambda: client.server.seen == ["Flush"])
    client.switches.turn(HOLD_FLUSHES, on=True)
    client.server.answering.set()
    eventually(lambda: client.call("Query").result() is not None)  # type: ignore[attr-defined]
    assert not found
    client.switches.turn(HOLD_FLUSHES, on=False)
    thread.join(10)
    assert found[0].code() == grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]


def test_a_flush_held_beyond_its_deadline_fails_by_it(client: Client) -> None:
    client.switches.turn(HOLD_FLUSHES, on=True)
    began = time.monotonic()
    error = client.call("Flush", timeout=0.5).exception()  # type: ignore[attr-defined]
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began >= 0.5


def test_refused_and_limited_calls_are_answered_as_by_a_server_that_limits_its_rate(client: Client) -> None:
    client.switches.turn(REFUSE_FLUSHES, on=True)
    client.switches.turn(LIMIT_WRITES, on=True)
    flush = client.call("Flush").result()  # type: ignore[attr-defined]
    writes = [client.call("Upsert").result().status for _ in range(6)]  # type: ignore[attr-defined]
    assert (flush.status.error_code, flush.status.code) == (common_pb2.RateLimit, 8)
    assert sum(status.error_code == common_pb2.RateLimit for status in writes) == 4
    assert client.server.seen == ["Upsert"] * 2
