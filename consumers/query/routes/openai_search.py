"""`POST /v1/vector_stores/{name}/search` in OpenAI's shape, where a vector store is the collection."""

from typing import Annotated, Any, Literal

import orjson
from fastapi import FastAPI, Request
from pydantic import Field, WithJsonSchema
from starlette.responses import Response
from typing_extensions import TypedDict

from consumers.http.problems import HttpProblem, Problem
from consumers.query.body import read_body
from consumers.query.openai import error_response, error_responses
from consumers.query.openapi import json_body
from consumers.query.routes.search import log_search
from consumers.query.searches import Searches
from pipeline.query import (
    MAX_BODY_BYTES,
    InvalidRequest,
    Result,
    SearchAnswer,
    SearchAnswers,
    SearchReport,
    StrictModel,
    decode_json,
    parse_body,
)

MAX_RESULTS = 50

_DESCRIPTION = """Search the collection in the shape of OpenAI's vector stores; `vector_store_id` is its name.

The results of a list of texts are merged, best score first. Each result is a document with its best chunk: `file_id`
is the document's id, `filename` its metadata of that name, else the id. `attributes` is the metadata and `event_time`.
Queries are not rewritten. There are no further pages. Errors have OpenAI's shape."""
_NAMES = {
    "limit": "max_num_results",
    "filter": "filters",
    "min_score": "ranking_options.score_threshold",
    "fusion": "ranking_options.hybrid_search",
    "fusion/dense": "ranking_options.hybrid_search.embedding_weight",
    "fusion/keyword": "ranking_options.hybrid_search.text_weight",
}
_ANY_QUERY = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
_ANY_FILTER = WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "null"}]})


class HybridWeights(StrictModel):
    """How much each order counts in a hybrid search."""

    embedding_weight: Any = None
    """The order by meaning."""
    text_weight: Any = None
    """The order by words."""


class RankingOptions(StrictModel):
    """Which results are left out, and how they are ordered."""

    ranker: Literal["auto", "none", "default-2024-11-15"] = "auto"
    """Accepted for clients that send it; there is one ranker."""
    score_threshold: Any = None
    """Results with a lower score are left out."""
    hybrid_search: HybridWeights | None = None


class VectorStoreSearchRequest(StrictModel):
    """A search of a vector store."""

    query: Annotated[Any, _ANY_QUERY]
    """A text, or a list of texts."""
    max_num_results: Annotated[int, Field(ge=1, le=MAX_RESULTS)] = 10
    """Most results."""
    filters: Annotated[Any, _ANY_FILTER] = None
    """A comparison or a compound filter."""
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = None
    """False or null: queries are not rewritten."""


class Content(TypedDict):
    """A chunk of a document."""

    type: Literal["text"]
    text: str


class FoundFile(TypedDict):
    """One document."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, str | float | bool]
    content: list[Content]


class SearchResultsPage(TypedDict):
    """The results, best first."""

    object: Literal["vector_store.search_results.page"]
    search_query: list[str]
    data: list[FoundFile]
    has_more: bool
    next_page: str | None


def add_vector_store_search(app: FastAPI, searches: Searches) -> None:
    """`POST /v1/vector_stores/{vector_store_id}/search`."""

    @app.post(
        "/v1/vector_stores/{vector_store_id}/search",
        summary="Search, in OpenAI's shape",
        description=_DESCRIPTION,
        responses={200: {"model": SearchResultsPage}, 404: {"description": "No such collection."}, **error_responses()},
        openapi_extra=json_body(VectorStoreSearchRequest),
    )
    async def search(request: Request, vector_store_id: str) -> Response:
        try:
            content = await read_body(request, MAX_BODY_BYTES)
            if vector_store_id != searches.service.collection:
                raise _no_such_store()
            body = parse_body(VectorStoreSearchRequest, decode_json(content))
            wanted = search_body(body)
        except Exception as error:
            log_search(SearchReport("invalid", None, error=error))
            return error_response(error)
        try:
            answer = await searches.of_request(request, wanted)
        except Exception as error:
            return error_response(error, _NAMES)
        return Response(orjson.dumps(results_page(body, answer)), media_type="application/json")


def search_body(body: VectorStoreSearchRequest) -> dict[str, Any]:
    """The same search as a body of POST /v1/search, which checks what is passed on. Raises InvalidRequest."""
    if body.rewrite_query:
        raise InvalidRequest("/rewrite_query", "must be false: queries are searched as they are")
    wanted: dict[str, Any] = {"query": body.query, "limit": body.max_num_results}
    if body.filters is not None:
        wanted["filter"] = body.filters
    options = body.ranking_options or RankingOptions()
    if options.score_threshold is not None:
        wanted["min_score"] = options.score_threshold
    if options.hybrid_search is not None:
        weights = options.hybrid_search
        wanted["fusion"] = {"dense": weights.embedding_weight, "keyword": weights.text_weight}
    return wanted


def results_page(body: VectorStoreSearchRequest, answer: SearchAnswer | SearchAnswers) -> SearchResultsPage:
    """The answer in OpenAI's shape; a document that several texts found is there once, with its best score."""
    if isinstance(answer, SearchAnswers):
        best: dict[tuple[Any, str], Result] = {}
        for result in (result for one in answer.answers for result in one.results):
            document = result.metadata.get("tenant"), result.doc_id
            if document not in best or result.score > best[document].score:
                best[document] = result
        results = sorted(best.values(), key=lambda result: -result.score)[: body.max_num_results]
    else:
        results = list(answer.results)
    return {
        "object": "vector_store.search_results.page",
        "search_query": [body.query] if isinstance(body.query, str) else body.query,
        "data": [_found_file(result) for result in results],
        "has_more": False,
        "next_page": None,
    }


def _found_file(result: Result) -> FoundFile:
    name = result.metadata.get("filename")
    return {
        "file_id": result.doc_id,
        "filename": name if isinstance(name, str) and name else result.doc_id,
        "score": result.score,
        "attributes": {
            **{key: _attribute(value) for key, value in result.metadata.items() if value is not None},
            "event_time": result.event_time,
        },
        "content": [{"type": "text", "text": result.text}],
    }


def _attribute(value: object) -> str | float | bool:
    """A value as attributes have it; lists and objects, which they do not have, as JSON text."""
    if isinstance(value, str | int | float | bool):
        return value
    return orjson.dumps(value).decode()


def _no_such_store() -> HttpProblem:
    detail = "no vector store has this id; it is the name of the collection that the query worker searches"
    return HttpProblem(Problem(404, "not-found", "No such vector store", detail))
