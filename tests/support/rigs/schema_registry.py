"""A schema registry on loopback: what Confluent's clients register, look up and read, in memory."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import NAMESPACE_URL, uuid5

Answer = tuple[int, dict[str, Any]]
NO_SUBJECT: Answer = (404, {"error_code": 40401, "message": "Subject not found."})
NO_VERSION: Answer = (404, {"error_code": 40402, "message": "Version not found."})
NO_SCHEMA: Answer = (404, {"error_code": 40403, "message": "Schema not found"})
AWAY: Answer = (503, {"error_code": 50301, "message": "no leader"})


@dataclass
class FakeSchemaRegistry:
    """Ids rise from 1; equal schemas have equal ids, whatever their subjects."""

    address: str = ""
    away: bool = False
    """Whether it answers 503, as a registry without a leader."""
    asked: list[str] = field(default_factory=list)
    """The paths that were asked for."""
    authorizations: list[str | None] = field(default_factory=list)
    _schemas: list[dict[str, Any]] = field(default_factory=list)
    _subjects: dict[str, list[int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def register(self, subject: str, schema: str, kind: str = "AVRO", references: Sequence[dict[str, Any]] = ()) -> int:
        """The id of a schema, which is a version of the subject from now on."""
        body = {"schema": schema, "schemaType": kind, "references": list(references)}
        with self._lock:
            if body not in self._schemas:
                self._schemas.append(body)
            number = self._schemas.index(body) + 1
            versions = self._subjects.setdefault(subject, [])
            if number not in versions:
                versions.append(number)
            return number

    def guid(self, number: int) -> str:
        """The GUID of an id."""
        return str(uuid5(NAMESPACE_URL, json.dumps(self._schemas[number - 1])))

    def answer(self, method: str, target: str, body: bytes) -> Answer:  # noqa: PLR0911 - one for each path
        """Status and JSON of the answer to a request."""
        parts = urlsplit(target)
        serialized = parse_qs(parts.query).get("format") == ["serialized"]
        match [method, *map(unquote, parts.path.strip("/").split("/"))]:
            case ["POST", "subjects", subject, "versions"]:
                given = json.loads(body)
                kind, references = given.get("schemaType") or "AVRO", given.get("references") or ()
                number = self.register(subject, given["schema"], kind, references)
                return 200, self._described(number, True, subject)
            case ["POST", "subjects", subject]:
                texts = {self._schemas[number - 1]["schema"]: number for number in self._subjects.get(subject, ())}
                found = texts.get(json.loads(body)["schema"])
                return NO_SCHEMA if found is None else (200, self._described(found, True, subject))
            case ["GET", "schemas", "ids", number]:
                return self._of_id(int(number), serialized)
            case ["GET", "schemas", "guids", guid]:
                known = {self.guid(number): number for number in range(1, len(self._schemas) + 1)}
                return self._of_id(known.get(guid, 0), serialized)
            case ["GET", "subjects", subject, "versions", version]:
                if subject not in self._subjects:
                    return NO_SUBJECT
                versions = self._subjects[subject]
                at = len(versions) if version == "latest" else int(version)
                if not 1 <= at <= len(versions):
                    return NO_VERSION
                return 200, self._described(versions[at - 1], serialized, subject)
            case _:
                return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}

    def _of_id(self, number: int, serialized: bool) -> Answer:
        return (200, self._described(number, serialized)) if 1 <= number <= len(self._schemas) else NO_SCHEMA

    def _described(self, number: int, serialized: bool, subject: str | None = None) -> dict[str, Any]:
        """As Confluent's: without the type for Avro, and of Protobuf the descriptor only where it is asked for."""
        schema = self._schemas[number - 1]
        described = {"id": number, "guid": self.guid(number), "schema": schema["schema"]}
        if schema["schemaType"] != "AVRO":
            described["schemaType"] = schema["schemaType"]
        if schema["schemaType"] == "PROTOBUF" and not serialized:
            described["schema"] = 'syntax = "proto3";'
        if schema["references"]:
            described["references"] = schema["references"]
        if subject is not None:
            described |= {"subject": subject, "version": self._subjects[subject].index(number) + 1}
        return described


@contextmanager
def schema_registry() -> Iterator[FakeSchemaRegistry]:
    """A registry that answers until the end of the block."""
    registry = FakeSchemaRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            registry.asked.append(self.path)
            registry.authorizations.append(self.headers.get("authorization"))
            status, answer = AWAY if registry.away else registry.answer(self.command, self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/vnd.schemaregistry.v1+json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()
