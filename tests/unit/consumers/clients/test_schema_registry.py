"""The client of a schema registry: what is an outage, what says something about a record, what is bounded."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from consumers.clients.schema_registry import SchemaRegistry
from pipeline.errors import RecordRejected, Unavailable, UsageError
from pipeline.intake import Reason, RegisteredSchema
from tests.support.rigs.schema_registry import FakeSchemaRegistry, schema_registry
from tests.support.rigs.scripted_server import ScriptedServer, scripted_server

SCHEMA = '"string"'


@pytest.fixture
def registry() -> Iterator[FakeSchemaRegistry]:
    with schema_registry() as served:
        yield served


@pytest.fixture
def script() -> Iterator[ScriptedServer]:
    with scripted_server() as served:
        yield served


def test_a_schema_comes_with_all_it_refers_to_each_behind_its_own(registry: FakeSchemaRegistry) -> None:
    registry.register("a", '"int"')
    to_a = {"name": "A", "subject": "a", "version": 1}
    registry.register("b/c", '"long"', references=[to_a])
    to_b = {"name": "B", "subject": "b/c", "version": 1}
    number = registry.register("top", SCHEMA, references=[to_b, to_a])
    assert SchemaRegistry(registry.address).schema(number) == RegisteredSchema(
        "avro", SCHEMA, (("A", '"int"'), ("B", '"long"'))
    )


def test_references_in_a_circle_or_to_nowhere_end(registry: FakeSchemaRegistry) -> None:
    to_itself = {"name": "A", "subject": "a", "version": 1}
    number = registry.register("a", SCHEMA, references=[to_itself])
    assert SchemaRegistry(registry.address).schema(number).references == (("A", SCHEMA),)
    number = registry.register("b", SCHEMA, references=[{"name": "X", "subject": "gone", "version": 3}])
    with pytest.raises(RecordRejected, match='refers to version 3 of "gone"') as refused:
        SchemaRegistry(registry.address).schema(number)
    assert refused.value.reason == Reason.UNUSABLE_SCHEMA


def test_an_unknown_schema_is_not_asked_for_again_at_once(registry: FakeSchemaRegistry) -> None:
    now = [0.0]
    client = SchemaRegistry(registry.address, clock=lambda: now[0])
    for _ in range(3):
        with pytest.raises(RecordRejected) as refused:
            client.schema(1)
        assert refused.value.reason == Reason.UNKNOWN_SCHEMA
    assert len(registry.asked) == 1
    registry.register("a", SCHEMA)
    now[0] = 10.0
    assert client.schema(1).text == SCHEMA


def test_a_number_that_no_registry_gives_is_unknown_without_a_request(script: ScriptedServer) -> None:
    """Registries answer it with a 404 of their web server: as an outage it would hold the record for ever."""
    script.status, script.body = 404, b'{"error_code": 404, "message": "HTTP 404 Not Found"}'
    client = SchemaRegistry(script.address)
    with pytest.raises(RecordRejected) as refused:
        client.schema(2**31)
    assert refused.value.reason == Reason.UNKNOWN_SCHEMA
    assert not script.sent
    with pytest.raises(Unavailable):
        client.schema(2**31 - 1)
    with pytest.raises(RecordRejected) as refused:
        client.schema(UUID(int=1))
    assert refused.value.reason == Reason.UNKNOWN_SCHEMA


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, b'{"error_code": 50301}', "answers 503"),
        (500, b"oops", "answers 500 and no JSON"),
        (429, b'{"error_code": 429}', "answers 429"),
        (302, b"{}", "answers 302"),
        (404, b"<html>not here</html>", "answers 404 and no JSON; is registry.url right"),
        (404, b'{"error_code": 404}', "answers 404"),
        (200, b"<html>log in</html>", "answers 200 and no JSON; is registry.url right"),
        (200, b"[" * 100_000, "no JSON"),
        (200, b"[]", "no JSON object"),
        (200, b'{"id": 1}', "answers no schema"),
        (200, b'{"schema": "{}", "references": [{"name": 1}]}', "a reference without"),
        (200, b'{"schema": "{}", "references": 5}', "references that are no list"),
        (200, b'{"schema": "{}", "references": {"name": "a"}}', "references that are no list"),
        (200, b'{"schema": "{}", "references": [{"name": "a", "subject": "b", "version": Infinity}]}', "without"),
        (200, rb'{"schema": "{}", "references": [{"name": "a", "subject": "\ud800", "version": 1}]}', "without"),
        (404, b'{"error_code": []}', "answers 404"),
        (200, b'{"schema": "' + b"x" * (8 * 2**20) + b'"}', "answers more than 8,388,608 bytes"),
    ],
)
def test_what_is_no_answer_of_a_registry_is_an_outage(
    script: ScriptedServer, status: int, body: bytes, words: str
) -> None:
    script.status, script.body = status, body
    with pytest.raises(Unavailable, match=words):
        SchemaRegistry(script.address).schema(1)


def test_a_type_that_is_not_read_is_no_outage(script: ScriptedServer) -> None:
    script.body = b'{"schema": "x", "schemaType": "THRIFT"}'
    with pytest.raises(RecordRejected, match='schema 1 is of type "THRIFT"'):
        SchemaRegistry(script.address).schema(1)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_name_the_settings_and_no_secret(script: ScriptedServer, status: int) -> None:
    script.status = status
    with pytest.raises(UsageError, match=r"registry\.user and registry\.password") as refused:
        SchemaRegistry(script.address, user="u", password="hunter2").schema(1)
    assert "hunter2" not in str(refused.value)


def test_the_credentials_are_sent(script: ScriptedServer) -> None:
    script.body = b'{"schema": "x"}'
    SchemaRegistry(script.address, user="ä", password="p:w").schema(1)
    SchemaRegistry(script.address, token="abc").schema(1)
    SchemaRegistry(script.address).schema(1)
    sent = [one.headers.get("authorization") for one in script.sent]
    assert sent == ["Basic w6Q6cDp3", "Bearer abc", None]


def test_nobody_there_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match="cannot be asked"):
        SchemaRegistry(f"http://127.0.0.1:{port}").schema(1)


@pytest.mark.timeout(30)
def test_an_answer_that_comes_byte_by_byte_has_one_time_limit() -> None:
    """Each byte comes in time: a limit for each read would never be reached."""
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while not ended.wait(0.05):
                try:
                    connection.sendall(b"x: y\r\n")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), daemon=True)
        thread.start()
        try:
            with pytest.raises(Unavailable, match=r"gives no answer within 0\.5 s"):
                SchemaRegistry(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.5).schema(1)
        finally:
            ended.set()
            thread.join()


def test_certificates_that_are_none_name_their_setting(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(UsageError, match=r"registry\.ca_file"):
            SchemaRegistry("https://registry", ca_file=path)
