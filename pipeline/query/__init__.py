"""From a request to an answer: `SearchService` checks it, embeds its texts, searches Milvus and shapes the results.

Free of transport: HTTP, the command line and every other way in call the same service.
"""

from pipeline.query.answer import SearchAnswer, SearchAnswers, SearchResult, answer_json
from pipeline.query.canary_rows import EXCEPT_CANARIES, ONLY_CANARIES, is_canary
from pipeline.query.candidates import DeadlinePassed, FetchSettings
from pipeline.query.freshness.newest import NewestEventTime
from pipeline.query.freshness.offsets import NotFreshYet, OffsetReader, OffsetsUnavailable
from pipeline.query.freshness.watch import FreshnessReport, FreshnessWatch
from pipeline.query.query_batcher import QueryBatcher
from pipeline.query.request.invalid_request import InvalidRequest, MalformedRequest
from pipeline.query.request.request import MAX_BODY_BYTES, SearchRequest, parse_request, request_model
from pipeline.query.search import Searcher, SearchSettings
from pipeline.query.service import DirectEmbedder, Overloaded, QueryEmbedder, SearchReport, SearchService

__all__ = [
    "EXCEPT_CANARIES",
    "MAX_BODY_BYTES",
    "ONLY_CANARIES",
    "DeadlinePassed",
    "DirectEmbedder",
    "FetchSettings",
    "FreshnessReport",
    "FreshnessWatch",
    "InvalidRequest",
    "MalformedRequest",
    "NewestEventTime",
    "NotFreshYet",
    "OffsetReader",
    "OffsetsUnavailable",
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
    "is_canary",
    "parse_request",
    "request_model",
]
