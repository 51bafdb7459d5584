"""The query worker over HTTP: what is sent where, and what each answer that is none becomes."""

import datetime
import ipaddress
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from consumers.clients import query_worker
from consumers.clients.query_worker import QueryWorker
from consumers.query.routes.documents import named_in
from pipeline.errors import MilvusStreamError, Mismatch, NotFound, RateLimited, Unavailable, UsageError
from tests.support.rigs.scripted_server import ScriptedServer, scripted_server

BODY = {"query": "refund", "limit": 3}
RESULT = {
    "id": "1",
    "doc_id": "a",
    "text": "refund",
    "score": 0.5,
    "scores": {},
    "event_time": "2026-11-22T09:30:00Z",
    "chunk": 0,
    "partition": None,
    "source": {"topic": "t", "partition": 0, "offset": 1},
    "metadata": {"lang": "en"},
}
ANSWER = {
    "results": [RESULT],
    "partial": False,
    "searched": {"partitions": 1, "skipped": 0, "reasons": {}},
    "warnings": [],
    "mode": "dense",
    "freshness": {"event_time": None, "lag_s": None},
    "timing_ms": {"embed": 4.8, "search": 7.0, "total": 12.1},
}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as script:
        script.body = json.dumps(ANSWER).encode()
        yield script


def problem(code: str, detail: str, **more: Any) -> bytes:
    return json.dumps({"type": f"urn:milvus-stream:problem:{code}", "title": "No", "detail": detail, **more}).encode()


def refused(server: ScriptedServer, status: int, body: bytes = b"", **headers: str) -> MilvusStreamError:
    server.status, server.body, server.headers = status, body, headers
    with pytest.raises(MilvusStreamError) as caught:
        QueryWorker(server.address).search(BODY)
    return caught.value


def test_an_answer_is_returned_as_it_is(server: ScriptedServer) -> None:
    server.body = json.dumps({**ANSWER, "of a later version": 1}).encode()
    assert QueryWorker(server.address + "/").search(BODY) == json.loads(server.body)
    (sent,) = server.sent
    assert (sent.method, sent.path, json.loads(sent.body)) == ("POST", "/v1/search", BODY)
    assert sent.headers["content-type"] == "application/json"
    assert "authorization" not in sent.headers


def test_the_key_is_in_the_header_only(server: ScriptedServer) -> None:
    QueryWorker(server.address + "/behind/a proxy", "ms_key").search(BODY)
    (sent,) = server.sent
    assert (sent.path, sent.headers["authorization"]) == ("/behind/a%20proxy/v1/search", "Bearer ms_key")
    assert b"ms_key" not in sent.body


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server: ScriptedServer, status: int) -> None:
    with scripted_server() as other:
        other.body = server.body
        server.status, server.headers = status, {"location": f"{other.address}/v1/search"}
        with pytest.raises(UsageError, match=r"leads on to .*, which is not followed"):
            QueryWorker(server.address, "ms_key").search(BODY)
        assert other.sent == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_what_listens_here_is_not_reached_through_a_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with scripted_server(host=host) as server:
        server.body = json.dumps(ANSWER).encode()
        worker = QueryWorker(server.address, "ms_key")
        assert not worker.sends_key_in_clear
        assert worker.search(BODY)["mode"] == "dense"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SSL_CERT_FILE", "/none/there.pem", "SSL_CERT_FILE or SSL_CERT_DIR names cannot be read"),
        ("HTTPS_PROXY", "gopher://u:secret@h", "HTTPS_PROXY or ALL_PROXY cannot be used"),
        ("ALL_PROXY", "socks5://u:secret@h", "HTTPS_PROXY or ALL_PROXY cannot be used"),
    ],
)
def test_an_environment_that_cannot_be_used_is_one_error(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message) as caught:
        QueryWorker("https://search.example").search(BODY)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://h\n",
        "http://u:p@h",
        "http://h?a",
        "http://h#a",
    ],
)
def test_another_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError, match="--url: ") as caught:
        QueryWorker(url)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "key", "in_clear"),
    [
        ("http://search.example", "k", True),
        ("http://10.0.0.1:8080", "k", True),
        ("http://search.example", None, False),
        ("https://search.example", "k", False),
        ("http://localhost:8080", "k", False),
        ("http://127.0.0.2:8080", "k", False),
        ("http://[::1]:8080", "k", False),
    ],
)
def test_a_key_crosses_no_network_in_the_clear_unnoticed(url: str, key: str | None, in_clear: bool) -> None:
    assert QueryWorker(url, key).sends_key_in_clear is in_clear


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, problem("malformed", "it is not UTF-8"), UsageError, "search it is not UTF-8"),
        (
            422,
            problem("invalid-request", "/time/last: must be", at="/time/last"),
            UsageError,
            "search /time/last: must be",
        ),
        (422, problem("refused", "Milvus refused", at="/filter"), UsageError, "search /filter: Milvus refused"),
        (413, problem("body-too-large", "64 KiB"), UsageError, "search 64 KiB"),
        (
            401,
            problem("unauthenticated", "the key has expired"),
            UsageError,
            "the key has expired. The key is client.api_key",
        ),
        (403, problem("forbidden", "needs the scope"), UsageError, "needs the scope"),
        (404, problem("not-found", "no such path"), UsageError, "no such path"),
        (404, problem("document-deleted", "it was deleted"), NotFound, "^it was deleted$"),
        (500, problem("internal", "our side"), MilvusStreamError, "our side"),
        (503, problem("unavailable", "Milvus is away"), Unavailable, "Milvus is away; try again in 7 s"),
        (503, problem("model-mismatch", "another model"), Mismatch, "another model"),
        (504, problem("timeout", "no result"), Unavailable, "no result"),
        (429, problem("rate-limited", "20 a second"), RateLimited, "20 a second; try again in 7 s"),
        (502, b"<html>Bad Gateway</html>", Unavailable, "answers 502 without a reason"),
        (429, b"", Unavailable, "answers 429 without a reason"),
        (401, b"<html>", UsageError, "a proxy before it refuses access"),
        (404, b"<html>", UsageError, "no answer of a query worker"),
        (204, b"", UsageError, "no answer of a query worker"),
        (418, b'{"type": 5}', UsageError, "no answer of a query worker"),
        (422, b"[" * 10_000, UsageError, "no answer of a query worker"),
    ],
)
def test_a_refusal_is_one_error_of_its_kind(
    server: ScriptedServer, status: int, body: bytes, kind: type[MilvusStreamError], message: str
) -> None:
    error = refused(server, status, body, **{"retry-after": "7"})
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error
    assert "\n" not in str(error)


@pytest.mark.parametrize("value", ["", "soon", "-1", "1e9", "٣", "999999999", "7, 8"])
def test_a_wait_that_is_none_is_left_out(server: ScriptedServer, value: str) -> None:
    error = refused(
        server, 429, problem("rate-limited", "20 a second"), **{"retry-after": value.encode().decode("latin-1")}
    )
    assert str(error).endswith("20 a second")


def test_a_long_refusal_is_cut(server: ScriptedServer) -> None:
    assert len(str(refused(server, 503, problem("unavailable", "x\n" * 100_000, at="y" * 100_000)))) < 3_000


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b"<html>", {"content-type": "text/html; charset=utf-8"}, "answers with text/html and not JSON"),
        (b"{", {}, "the answer is not JSON"),
        (b"\xff", {}, "the answer is not JSON"),
        (b"[" * 100_000, {}, "the answer is not JSON"),
        (json.dumps({**ANSWER, "more": json.loads("[" * 120 + "]" * 120)}).encode(), {}, "nested too deep"),
        (b"9" * 10_000, {}, "the answer is not JSON"),
        (b"[]", {}, "none of a query worker of this version"),
        (b"{}", {}, "none of a query worker of this version: .*results"),
        (json.dumps({**ANSWER, "answers": [5]}).encode(), {}, "answers/answers/0"),
        (json.dumps({**ANSWER, "results": [{**RESULT, "text": None}]}).encode(), {}, "results/0/text"),
        (json.dumps({**ANSWER, "results": [{**RESULT, "event_time": "soon"}]}).encode(), {}, "event_time"),
        (json.dumps({**ANSWER, "results": [{**RESULT, "event_time": "2026-11-22"}]}).encode(), {}, "no time zone"),
        (json.dumps({**ANSWER, "results": [{**RESULT, "score": "0.5"}]}).encode(), {}, "results/0/score"),
        (json.dumps({**ANSWER, "total": "5"}).encode(), {}, "total"),
        (json.dumps({**ANSWER, "timing_ms": {"embed": "1", "search": "2", "total": 3}}).encode(), {}, "embed"),
        (json.dumps(ANSWER).replace("0.5", "1e999").encode(), {}, "a number in it is too large"),
        (json.dumps(ANSWER).replace('"en"', "[-1e999]").encode(), {}, "a number in it is too large"),
        (b"\x1f\x8b", {"content-encoding": "gzip"}, "content-encoding"),
        (b"{}", {"content-length": "9999"}, "cannot be reached"),
    ],
)
def test_an_answer_that_is_none_is_one_error(
    server: ScriptedServer, body: bytes, headers: dict[str, str], message: str
) -> None:
    with pytest.raises(MilvusStreamError, match=message):
        raise refused(server, 200, body, **headers)


@pytest.mark.parametrize("status", [200, 422])
def test_a_huge_answer_is_not_read_to_its_end(
    server: ScriptedServer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_worker, "_MOST_BYTES", 2**20)
    error = refused(server, status, b" " * 2**22)
    with pytest.raises(UsageError, match="answers with more than 1 MiB"):
        raise error


def test_an_address_where_nothing_listens_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9/v1/search cannot be reached"):
        QueryWorker("http://127.0.0.1:9").search(BODY)


def test_a_server_that_does_not_answer_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_worker, "_TOTAL_S", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(Unavailable, match="did not answer within"),
    ):
        QueryWorker(f"http://127.0.0.1:{silent.getsockname()[1]}").search(BODY)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
@example(".")
@example("..")
def test_every_id_arrives_as_it_is(doc_id: str) -> None:
    for below, wants_history in (("", False), ("/history", True)):
        path = query_worker._document_path(doc_id, below, None)
        assert named_in(str(httpx.URL(f"http://h{path}").raw_path, "ascii").encode()) == (
            doc_id,
            wants_history,
        )


def test_a_document_is_asked_for_with_its_tenant(server: ScriptedServer) -> None:
    server.status, server.body = 404, problem("no-such-document", "no document x is stored")
    worker = QueryWorker(server.address)
    for ask in (worker.document, worker.history):
        with pytest.raises(NotFound, match=r"^no document x is stored$"):
            ask("../x\udcff", "a&b")
    with pytest.raises(NotFound):
        worker.similar("x", "a&b", 3)
    paths = [sent.path for sent in server.sent]
    query = "?timeout_ms=30000&tenant=a%26b"
    assert paths == [f"/v1/documents/..%2Fx%FF{query}", f"/v1/documents/..%2Fx%FF/history{query}", "/v1/similar"]
    assert json.loads(server.sent[2].body) == {"doc_id": "x", "tenant": "a&b", "limit": 3, "timeout_ms": 30_000}


def test_a_certificate_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, context = _certificate(tmp_path)
    with scripted_server(context) as server:
        server.body = json.dumps(ANSWER).encode()
        with pytest.raises(Unavailable, match=r"CERTIFICATE_VERIFY_FAILED.*SSL_CERT_FILE"):
            QueryWorker(server.address, "ms_key").search(BODY)
        assert server.sent == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert QueryWorker(server.address, "ms_key").search(BODY)["mode"] == "dense"


def _certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that nobody has signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context
