"""Compressed answers and compressed bodies: which are, within which bounds, and what is refused."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from consumers.http.problems import HttpProblem
from consumers.query import encoding
from consumers.query.encoding import PIECE_BYTES, _Unpacking
from consumers.query.origins import Origins
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.page import keys
from tests.support.rigs.query_app import QueryApp, query_app, served
from tests.support.rigs.search import Library

PACKED = {"content-type": "application/json", "content-encoding": "gzip"}
LONG = "word " * 400


def packed(app: QueryApp, content: bytes, path: str = "/v1/search", **headers: str) -> httpx.Response:
    return app.call("POST", path, content=content, headers={**PACKED, **headers})


def body(**more: object) -> bytes:
    return json.dumps({"query": "q", **more}).encode()


def kind(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"].rpartition(":")[2]


@pytest.mark.parametrize("accepted", ["gzip", "br, gzip;q=0.5", "deflate, gzip"])
def test_a_large_answer_is_sent_as_gzip_to_clients_that_take_it(app: QueryApp, library: Library, accepted: str) -> None:
    library.put("a", 0.0, title=LONG)
    answer = app.call("POST", "/v1/search", json={"query": "q"}, headers={"accept-encoding": accepted})
    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert int(answer.headers["content-length"]) < len(answer.content)
    assert answer.json()["results"][0]["metadata"]["title"] == LONG


@pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0", "deflate, gzip; q=0.0"])
def test_other_clients_get_it_as_it_is(app: QueryApp, library: Library, accepted: str) -> None:
    library.put("a", 0.0, title=LONG)
    answer = app.call("POST", "/v1/search", json={"query": "q"}, headers={"accept-encoding": accepted})
    assert "content-encoding" not in answer.headers
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_a_small_answer_is_sent_as_it_is(app: QueryApp) -> None:
    answer = app.call("GET", "/healthz", headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "GZIP"])
def test_a_packed_body_is_searched_like_the_plain_one(app: QueryApp, library: Library, name: str) -> None:
    library.put("a", 0.0)
    assert packed(app, gzip.compress(body()), **{"content-encoding": name}).json()["results"][0]["doc_id"] == "a"


@pytest.mark.parametrize("path", ["/v1/search", "/v1/similar", "/v1/embeddings", "/v1/vector_stores/documents/search"])
def test_a_bomb_is_413_on_every_route(app: QueryApp, path: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 65_536
    assert packed(app, bomb, path).status_code == 413


def test_the_limit_of_a_route_counts_unpacked_bytes(app: QueryApp, library: Library) -> None:
    library.put("a", 0.0)
    content = body() + b" " * (65_536 - len(body()))
    assert packed(app, gzip.compress(content)).status_code == 200
    assert kind(packed(app, gzip.compress(content + b" "))) == (413, "body-too-large")


def test_bytes_that_unpack_to_nothing_are_bounded_too(app: QueryApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MOST_PACKED_BYTES", 10_000)
    head, empty_block = gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff"
    assert kind(packed(app, head + empty_block * 1_900)) == (400, "malformed"), "it has no end"
    assert kind(packed(app, head + empty_block * 2_000)) == (413, "body-too-large")


NO_GZIP = {
    "empty": b"",
    "plain": body(),
    "one byte short": gzip.compress(body())[:-1],
    "cut": gzip.compress(body())[:12],
    "wrong checksum": gzip.compress(body())[:-8] + b"\0" * 8,
    "a byte behind": gzip.compress(body()) + b"x",
    "two of them": gzip.compress(body()) + gzip.compress(body()),
    "zlib": zlib.compress(body()),
}


@pytest.mark.parametrize("content", NO_GZIP.values(), ids=NO_GZIP)
def test_what_is_no_gzip_is_400(app: QueryApp, content: bytes) -> None:
    assert kind(packed(app, content)) == (400, "malformed")


@pytest.mark.parametrize("name", ["br", "deflate", "gzip, gzip", "zstd", "gzip, identity"])
def test_another_encoding_is_415_and_says_which_is_taken(app: QueryApp, name: str) -> None:
    answer = packed(app, body(), **{"content-encoding": name})
    assert kind(answer) == (415, "unknown-encoding")
    assert answer.headers["accept-encoding"] == "gzip"


def test_identity_is_no_encoding(app: QueryApp, library: Library) -> None:
    assert packed(app, body(), **{"content-encoding": "identity"}).status_code == 200


@pytest.fixture
def address(milvus: FakeMilvus) -> Iterator[str]:
    with query_app(milvus, mcp=True) as made, served(made.app) as opened:
        yield opened


def test_over_a_socket_with_a_length_or_in_chunks(address: str, library: Library) -> None:
    library.put("a", 0.0, title=LONG)
    content = gzip.compress(body())

    def pieces() -> Iterator[bytes]:
        yield content[:7]
        yield content[7:]

    for sent in (content, pieces()):
        answer = httpx.post(f"{address}/v1/search", content=sent, headers=PACKED)
        assert answer.json()["results"][0]["doc_id"] == "a"
        assert answer.headers["content-encoding"] == "gzip"


def test_tools_take_packed_bodies_and_refuse_broken_ones(address: str) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    headers = {**PACKED, "accept": "application/json, text/event-stream"}
    answer = httpx.post(f"{address}/mcp", content=gzip.compress(json.dumps(call).encode()), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["result"]["tools"]
    with structlog.testing.capture_logs() as lines:
        broken = httpx.post(f"{address}/mcp", content=b"no gzip", headers=headers)
    assert (kind(broken), lines) == ((400, "malformed"), [])
    bomb = httpx.post(f"{address}/mcp", content=gzip.compress(b" " * 10_000_000), headers=headers)
    assert bomb.status_code == 413


@pytest.mark.parametrize("path", ["/mcp", "/v1/search"])
def test_a_broken_body_is_400_for_the_audit_log_and_the_site_that_sent_it(
    milvus: FakeMilvus, tmp_path: Path, path: str
) -> None:
    access, texts = keys(tmp_path / "keys.json")
    headers = {
        **PACKED,
        "accept": "application/json, text/event-stream",
        "authorization": f"Bearer {texts['reader']}",
        "origin": "https://app.example.com",
    }
    with (
        query_app(milvus, mcp=True, access=access, origins=Origins([headers["origin"]])) as made,
        structlog.testing.capture_logs() as lines,
        served(made.app) as opened,  # innermost: the line is written when the answer has been sent
    ):
        answer = httpx.post(f"{opened}{path}", content=b"no gzip", headers=headers)
    assert kind(answer) == (400, "malformed")
    assert answer.headers["access-control-allow-origin"] == headers["origin"]
    assert [(line["route"], line["status"]) for line in lines if line["event"] == "query.audit"] == [(path, 400)]


def unpacked(messages: list[Message]) -> list[bytes]:
    """The pieces that a reader of the whole body gets."""

    async def receive() -> Message:
        return messages.pop(0)

    async def read() -> list[bytes]:
        unpacking = _Unpacking(receive)
        pieces = []
        while True:
            message = await unpacking()
            pieces.append(message["body"])
            if not message["more_body"]:
                return pieces

    return asyncio.run(read())


def test_behind_the_body_the_leaving_of_the_client_is_waited_for() -> None:
    """Whoever waits for it would else read empty pieces for ever, and stop the event loop with that."""
    messages = [*cut(gzip.compress(b"{}"), []), {"type": "http.disconnect"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def read() -> list[str]:
        unpacking = _Unpacking(receive)
        return [(await unpacking())["type"] for _ in range(2)]

    assert asyncio.run(read()) == ["http.request", "http.disconnect"]


def cut(content: bytes, places: list[int]) -> list[Message]:
    ends = [*sorted(place % (len(content) + 1) for place in places), len(content)]
    starts = [0, *ends[:-1]]
    last = len(starts) - 1
    return [
        {"type": "http.request", "body": content[start:end], "more_body": number < last}
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


REPEATED = st.builds(lambda part, times: part * times, st.binary(max_size=9), st.integers(0, 40_000))
CONTENT = st.binary(max_size=200) | REPEATED


def test_a_bomb_is_unpacked_by_pieces() -> None:
    packed_zeros = gzip.compress(bytes(3_000_000))
    assert len(packed_zeros) < PIECE_BYTES
    pieces = unpacked(cut(packed_zeros, []))
    assert max(map(len, pieces)) == PIECE_BYTES
    assert sum(map(len, pieces)) == 3_000_000


@given(CONTENT, st.integers(0, 9), st.lists(st.integers(0, 10**6), max_size=4))
def test_unpacking_gives_the_body_in_bounded_pieces_however_it_arrives(
    content: bytes, level: int, places: list[int]
) -> None:
    pieces = unpacked(cut(gzip.compress(content, level), places))
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= PIECE_BYTES


@given(st.binary(max_size=300), st.lists(st.integers(0, 10**6), max_size=3), st.data())
def test_a_damaged_body_is_never_read_as_whole(content: bytes, places: list[int], data: Any) -> None:
    whole = gzip.compress(content)
    at = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(HttpProblem) as refused:
        unpacked(cut(whole[:at], places))
    assert refused.value.problem.status == 400
