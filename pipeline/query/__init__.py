"""From a request to an answer: `SearchService` checks it, embeds its texts, searches Milvus and shapes the results.

Free of transport: HTTP, the command line and every other way in call the same service.
"""

from pipeline.query.answer import SearchAnswer, SearchAnswers, SearchResult, answer_json
from pipeline.query.candidates import DeadlinePassed, FetchSettings
from pipeline.query.cursor import Cursors
from pipeline.query.query_batcher import QueryBatcher
from pipeline.query.request.cursor_request import cursor_request_model
from pipeline.query.request.invalid_request import InvalidRequest, MalformedRequest
from pipeline.query.request.request import (
    MAX_BODY_BYTES,
    MAX_SEARCH_BODY_BYTES,
    SearchRequest,
    decode_json,
    parse_request,
    request_model,
)
from pipeline.query.search import Searcher, SearchSettings
from pipeline.query.service import DirectEmbedder, Overloaded, QueryEmbedder, SearchReport, SearchService

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_SEARCH_BODY_BYTES",
    "Cursors",
    "DeadlinePassed",
    "DirectEmbedder",
    "FetchSettings",
    "InvalidRequest",
    "MalformedRequest",
    "Overloaded",
    "QueryBatcher",
    "QueryEmbedder",
    "SearchAnswer",
    "SearchAnswers",
    "SearchReport",
    "SearchRequest",
    "SearchResult",
    "SearchService",
    "SearchSettings",
    "Searcher",
    "answer_json",
    "cursor_request_model",
    "decode_json",
    "parse_request",
    "request_model",
]
