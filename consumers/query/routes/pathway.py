"""`/v1/retrieve`, `/v1/statistics` and `/v1/inputs` as Pathway's document store has them, so that its clients work."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

import orjson
from fastapi import FastAPI, Request
from pydantic import Field
from starlette.responses import Response

from consumers.http.problems import problem_of
from consumers.query.body import read_body
from consumers.query.openapi import json_body, parameters, problem_responses
from consumers.query.pathway_filter import MAX_CHARS, MODIFIED_AT, pathway_filter
from consumers.query.searches import Searches, renamed
from pipeline.errors import MilvusStreamError
from pipeline.query import (
    MAX_BODY_BYTES,
    InvalidRequest,
    ListedDocument,
    Result,
    SearchAnswer,
    StrictModel,
    decode_json,
    parse_body,
)
from pipeline.timestamps import rfc3339_microseconds

MAX_K = 1_000
_NAMES = {"limit": "k", "filter": "metadata_filter"}
_DESCRIPTION = """In the shape of Pathway's document store: GET with parameters, or POST with JSON. `metadata_filter` is
JMESPath: comparisons of a field with a literal, `&&`, `||`, `!` of them, contains, starts_with and globmatch where
Milvus has such a filter; else 422. `modified_at` is the event time in epoch seconds, `dist` is 1 - score."""
_Answer: TypeAlias = Callable[[Request], Awaitable[object]]


class _Filters(StrictModel):
    metadata_filter: Annotated[str, Field(max_length=MAX_CHARS)] | None = None
    """JMESPath; see docs/integrations.md for what it may have."""
    filepath_globpattern: Annotated[str, Field(max_length=MAX_CHARS)] | None = None
    """A whole path, or a folder and everything below it: docs/**."""


class RetrieveRequest(_Filters):
    """A search."""

    query: Any
    """A text."""
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 3
    """Most documents."""


class InputsRequest(_Filters):
    """The documents wanted."""


class StatisticsRequest(StrictModel):
    """Nothing."""


MODELS = (RetrieveRequest, InputsRequest, StatisticsRequest)


def add_pathway(app: FastAPI, searches: Searches) -> None:
    """The three routes."""

    async def retrieve(request: Request) -> list[dict[str, Any]]:
        body = parse_body(RetrieveRequest, await _body(request))
        if not isinstance(body.query, str):
            raise InvalidRequest("/query", "must be a text")
        wanted: dict[str, Any] = {"query": body.query, "limit": body.k}
        rows = pathway_filter(body.metadata_filter, body.filepath_globpattern)
        if rows is not None:
            wanted["filter"] = rows
        with renamed(_NAMES):
            answer = await searches.of_request(request, wanted)
        results = answer.results if isinstance(answer, SearchAnswer) else answer.answers[0].results
        return [_retrieved(result) for result in results]

    async def statistics(request: Request) -> dict[str, Any]:
        parse_body(StatisticsRequest, await _body(request))
        counted = await searches.statistics(request)
        modified = None if counted.newest_ms is None else counted.newest_ms // 1_000
        return {"file_count": counted.documents, "last_modified": modified, "last_indexed": None}

    async def inputs(request: Request) -> list[dict[str, Any]]:
        body = parse_body(InputsRequest, await _body(request))
        rows = pathway_filter(body.metadata_filter, body.filepath_globpattern)
        with renamed(_NAMES):
            return [_input(document) for document in await searches.documents(request, rows)]

    _add(app, "/v1/retrieve", "Search", RetrieveRequest, retrieve)
    _add(app, "/v1/statistics", "Count the documents", StatisticsRequest, statistics)
    _add(app, "/v1/inputs", "List the documents", InputsRequest, inputs)


def _add(app: FastAPI, path: str, summary: str, model: type[StrictModel], answer: _Answer) -> None:
    async def route(request: Request) -> Response:
        try:
            return Response(orjson.dumps(await answer(request)), media_type="application/json")
        except MilvusStreamError as error:
            return problem_of(error).response()

    name = path.rpartition("/")[2]
    for method, extra in (("POST", json_body(model)), ("GET", parameters(model))):
        app.add_api_route(
            path,
            route,
            methods=[method],
            summary=f"{summary}, for Pathway's clients",
            description=_DESCRIPTION,
            responses=problem_responses(),
            openapi_extra=extra,
            operation_id=f"pathway_{name}_{method.lower()}",
        )


async def _body(request: Request) -> object:
    """The JSON of a POST, or the parameters of a GET as such; raises as `read_body`, and InvalidRequest."""
    if request.method == "POST":
        return decode_json(await read_body(request, MAX_BODY_BYTES))
    if len({key for key, _ in request.query_params.multi_items()}) != len(request.query_params.multi_items()):
        raise InvalidRequest("", "has a parameter twice")
    parameters: dict[str, object] = dict(request.query_params)
    number = parameters.get("k")
    if isinstance(number, str) and number.isascii() and number.isdecimal() and len(number) < 10:
        parameters["k"] = int(number)
    return parameters


def _retrieved(result: Result) -> dict[str, Any]:
    seconds = rfc3339_microseconds(result.event_time) // 1_000_000
    metadata = {**result.metadata, MODIFIED_AT: seconds}
    return {"text": result.text, "metadata": metadata, "dist": 1 - result.score}


def _input(document: ListedDocument) -> dict[str, Any]:
    return {**document.metadata, "doc_id": document.doc_id, MODIFIED_AT: document.event_time_ms // 1_000}
