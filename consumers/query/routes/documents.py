"""`GET /v1/documents/{id}` and its history: the id in the address, of any characters, and the line of the log."""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson
import structlog
from fastapi import FastAPI, Request
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import Response
from typing_extensions import override

from consumers.http.problems import problem_of
from consumers.query.access import caller_of, note
from consumers.query.admission import Admission
from consumers.query.openapi import parameters, problem_responses
from pipeline.query import DocumentHistory, DocumentRequest, DocumentService, InvalidRequest, StoredDocument

NO_DOCUMENT: dict[int | str, dict[str, Any]] = {
    404: {**problem_responses()[422], "description": "No such document; `deleted_at` where it was deleted."}
}
_HISTORY = b"/history"
_NUMBER = re.compile(r"[0-9]{1,9}")
_MOST_PARAMETERS = 8
_READ = """The document as it is stored now: its chunks in order, their text joined, metadata, and the record it came
from. In upsert mode the current version by the ledger, never rows of two versions; `pending` says that a change of it
is under way. In append mode the newest version, and the `earlier` ones. `text_exact` says whether the text is proven to
be that of the record: rows do not hold by how much chunks overlap. The id is percent-encoded; a slash may be as it is,
except that `/history` at the end of an id is written `%2Fhistory`."""
_WHERE = """Where the document is in Milvus: rows by Milvus partition and by the record that wrote them, and the entry
of the ledger with the newest record of the document. Also of a document that was deleted."""

_log = structlog.get_logger(__name__)


class _AnyText(Convertor[str]):
    """A part of an address with any characters; Starlette's `path` matches no line break."""

    regex = "(?s:.*)"

    @override
    def convert(self, value: str) -> str:
        return value

    @override
    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_text", _AnyText())


class _Read(Protocol):
    """A method of the service."""

    def __call__(self, request: object, *, admit: Callable[[], None], tenant: str | None) -> Awaitable[object]: ...


def add_documents(app: FastAPI, documents: DocumentService, admission: Admission) -> None:
    """`GET /v1/documents/{id}` and `GET /v1/documents/{id}/history`."""

    async def answer(request: Request) -> Response:
        try:
            doc_id, wants_history = named_in(request.scope["raw_path"])
            read: _Read = documents.history if wants_history else documents.read
            values = {"doc_id": doc_id, **_parameters(request.scope["query_string"])}
            found = await read(values, admit=partial(admission.admit, request), tenant=caller_of(request).tenant)
        except HTTPException:
            raise
        except Exception as error:
            return _failed(error)
        note(request, results=1)
        return Response(orjson.dumps(found), media_type="application/json")

    # Which of the two is meant is read from the address as it was sent: decoded, `a%2Fhistory` looks like the second.
    @app.get("/v1/documents/{doc_id:any_text}/history", **_described("History of a document", _WHERE, DocumentHistory))
    async def history(request: Request) -> Response:
        return await answer(request)

    @app.get("/v1/documents/{doc_id:any_text}", **_described("A document", _READ, StoredDocument))
    async def document(request: Request) -> Response:
        return await answer(request)


def named_in(raw_path: bytes) -> tuple[str, bool]:
    """The id in an address as it was sent, and whether its history is wanted.

    Raises InvalidRequest where it is no UTF-8, HTTPException 404 where the part before the id is encoded otherwise.
    """
    path = raw_path.partition(b"?")[0]
    parts = path.split(b"/", 3)
    if len(parts) < 4 or [unquote_to_bytes(part) for part in parts[:3]] != [b"", b"v1", b"documents"]:
        raise HTTPException(404)
    encoded = parts[3]
    wants_history = encoded.endswith(_HISTORY)
    try:
        return unquote_to_bytes(encoded.removesuffix(_HISTORY)).decode(), wants_history
    except UnicodeDecodeError:
        raise InvalidRequest("/doc_id", "is not UTF-8 behind its percent-encoding") from None


def _parameters(query: bytes) -> Mapping[str, object]:
    """The parameters of the address; numbers as such. Raises InvalidRequest."""
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except ValueError:
        message = f"the parameters of the address are not UTF-8, or more than {_MOST_PARAMETERS}"
        raise InvalidRequest("", message) from None
    values: dict[str, object] = {}
    for name, value in pairs:
        if name in values or name == "doc_id":
            raise InvalidRequest("", "a parameter of the address is given twice, or is the id")
        values[name] = int(value) if name == "timeout_ms" and _NUMBER.fullmatch(value) else value
    return values


def _failed(error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status >= 500:
        log = _log.exception if problem.status == 500 else _log.warning
        log("search.failed", what="document", status=problem.status, problem=problem.code, reason=problem.reason)
    return problem.response()


def _described(summary: str, description: str, model: type) -> dict[str, Any]:
    """The options of a route for OpenAPI."""
    errors = {status: of for status, of in problem_responses().items() if status not in (400, 413, 415)}
    return {
        "summary": summary,
        "description": description,
        "responses": {200: {"model": model}, **errors, **NO_DOCUMENT},
        "openapi_extra": parameters(DocumentRequest, path="doc_id"),
    }
