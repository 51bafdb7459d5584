"""The client of a schema registry: schemas by id, and those that they refer to.

Confluent's client is not used: it brings a second Kafka client, repeats requests by rules of its own, and bounds
neither the size of an answer nor the time that it takes as a whole.
"""

import asyncio
import json
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from typing_extensions import override

from consumers.clients.http_client import at_most, http_client
from pipeline.errors import RecordRejected, Unavailable, UsageError
from pipeline.intake import SCHEMA_FORMATS, Reason, RegisteredSchema, SchemaRef, SchemaSource, quoted

_MOST_BYTES = 8 * 1024 * 1024
"""Of an answer. Registries keep schemas as records of Kafka, whose own bound is far lower."""
_MOST_REFERENCES = 200
_UNKNOWN = frozenset({40401, 40402, 40403})
"""Codes of a registry for a subject, version or schema that it has not. Any other 404 is from something else."""
_LARGEST_ID = 2**31 - 1
"""A registry takes an id as a signed integer of 32 bits, and any other number for a path that it does not have."""
_GUIDS = "/schemas/guids/"
_UNKNOWN_FOR_S = 10.0
_MOST_UNKNOWN = 1_000
_SERIALIZED = "?format=serialized"
"""A .proto file as a descriptor, which needs no parser."""


class SchemaRegistry(SchemaSource):
    """Asks a registry over HTTP, one request at a time, each answered within its time or not at all."""

    def __init__(
        self,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        ca_file: Path | None = None,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ca_file`: certificates that are trusted besides those of the system. Raises UsageError where it is none."""
        self._url = url.rstrip("/")
        # Compressed answers are not asked for and not read: a small one could become a huge one.
        self._headers = {"accept": "application/vnd.schemaregistry.v1+json, */*", "accept-encoding": "identity"}
        if user is not None:
            credentials = f"{user}:{password or ''}".encode()
            self._headers["authorization"] = f"Basic {b64encode(credentials).decode()}"
        elif token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._trusted = _trusted(ca_file)
        self._timeout_s = timeout_s
        self._clock = clock
        self._unknown: dict[SchemaRef, float] = {}

    @override
    def schema(self, ref: SchemaRef) -> RegisteredSchema:
        if isinstance(ref, int) and ref > _LARGEST_ID:
            raise _no_schema(ref)
        since = self._unknown.get(ref)
        if since is not None and self._clock() - since < _UNKNOWN_FOR_S:
            raise _no_schema(ref)
        where = f"/schemas/ids/{ref}" if isinstance(ref, int) else f"{_GUIDS}{ref}"
        try:
            answer = self._answer(where)
            schema_format = _format_of(answer, ref)
            asked = _SERIALIZED if schema_format == SCHEMA_FORMATS["PROTOBUF"] else ""
            if asked:
                answer = self._answer(where + asked)
        except _NotThere:
            if len(self._unknown) >= _MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[ref] = self._clock()
            raise _no_schema(ref) from None
        found: dict[tuple[str, str, int], str] = {}
        self._collect(answer, asked, ref, found, ())
        return RegisteredSchema(
            schema_format, self._text(answer), tuple((name, text) for (name, _, _), text in found.items())
        )

    def _collect(
        self,
        answer: Mapping[str, Any],
        asked: str,
        ref: SchemaRef,
        found: dict[tuple[str, str, int], str],
        above: tuple[tuple[str, str, int], ...],
    ) -> None:
        """Read the schemas that a schema refers to, each behind its own ones. Raises RecordRejected, Unavailable."""
        entries = answer.get("references") or ()
        if not isinstance(entries, list | tuple):
            raise self._away("answers references that are no list")
        for entry in entries:
            try:
                one = (str(entry["name"]), str(entry["subject"]), int(entry["version"]))
                path = f"/subjects/{quote(one[1], safe='')}/versions/{one[2]}{asked}"
            # JSON's Infinity is an OverflowError, a lone surrogate a ValueError of its encoding.
            except (TypeError, KeyError, ValueError, OverflowError):
                raise self._away("answers a reference without name, subject and version") from None
            if one in found or one in above:
                continue
            if len(found) + len(above) >= _MOST_REFERENCES:
                message = f"schema {ref} refers to more than {_MOST_REFERENCES} others"
                raise RecordRejected(Reason.UNUSABLE_SCHEMA, message)
            _, subject, version = one
            try:
                referred = self._answer(path)
            except _NotThere:
                message = f"schema {ref} refers to version {version} of {quoted(subject)}, which the registry has not"
                raise RecordRejected(Reason.UNUSABLE_SCHEMA, message) from None
            self._collect(referred, asked, ref, found, (*above, one))
            found[one] = self._text(referred)

    def _text(self, answer: Mapping[str, Any]) -> str:
        text = answer.get("schema")
        if not isinstance(text, str):
            raise self._away("answers no schema")
        return text

    def _answer(self, path: str) -> Mapping[str, Any]:
        """The JSON object at a path. Raises _NotThere, Unavailable, UsageError."""
        status, content = self._read(path)
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise UsageError(
                f"the schema registry {self._url} answers {status}: check registry.user and registry.password, or "
                "registry.token, and what they may read"
            )
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise self._away(f"answers {status} and no JSON; is registry.url right?") from None
        if not isinstance(answer, dict):
            raise self._away(f"answers {status} and no JSON object; is registry.url right?")
        if status == httpx.codes.NOT_FOUND and _says_unknown(path, answer.get("error_code")):
            raise _NotThere
        if status != httpx.codes.OK:
            raise self._away(f"answers {status}")
        return answer

    def _read(self, path: str) -> tuple[int, bytes]:
        try:
            # On a thread of its own: the caller may be on an event loop, and a loop runs once a thread.
            with ThreadPoolExecutor(1, "schema-registry") as thread:
                return thread.submit(asyncio.run, self._fetched(path)).result()
        except (TimeoutError, httpx.TimeoutException):
            raise self._away(f"gives no answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise self._away(f"cannot be asked: {str(error) or type(error).__name__}") from None

    async def _fetched(self, path: str) -> tuple[int, bytes]:
        """Status and body. The time holds for the whole of it: a server may send a byte now and then."""
        async with (
            asyncio.timeout(self._timeout_s),
            http_client(self._url, None, self._headers, trusted=self._trusted) as client,
            client.stream("GET", self._url + path) as response,
        ):
            if (content := await at_most(response.aiter_raw(), _MOST_BYTES)) is None:
                raise self._away(f"answers more than {_MOST_BYTES:,} bytes; is registry.url right?")
            return response.status_code, content

    def _away(self, problem: str) -> Unavailable:
        return Unavailable(f"the schema registry {self._url} {problem}")


class _NotThere(Exception):
    """The registry has no such schema, subject or version."""


def _says_unknown(path: str, code: object) -> bool:
    # A registry that is too old for GUIDs has no such path, and so none of the schemas.
    return path.startswith(_GUIDS) or (isinstance(code, int) and code in _UNKNOWN)


def _no_schema(ref: SchemaRef) -> RecordRejected:
    return RecordRejected(Reason.UNKNOWN_SCHEMA, f"the schema registry has no schema {ref}")


def _format_of(answer: Mapping[str, Any], ref: SchemaRef) -> str:
    kind = str(answer.get("schemaType") or "AVRO")  # left out for Avro
    if kind not in SCHEMA_FORMATS:
        message = f"schema {ref} is of type {quoted(kind)}; {', '.join(SCHEMA_FORMATS)} are read"
        raise RecordRejected(Reason.UNSUPPORTED_FORMAT, message)
    return SCHEMA_FORMATS[kind]


def _trusted(ca_file: Path | None) -> ssl.SSLContext | None:
    if ca_file is None:
        return None
    context = httpx.create_ssl_context()
    try:
        context.load_verify_locations(ca_file.expanduser())
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"registry.ca_file {ca_file} cannot be read as certificates: {error}") from None
    return context
