"""From a request to an answer: `SearchService` checks it, embeds its texts, searches Milvus and shapes the results.

Free of transport: HTTP, the command line and every other way in call the same service.
"""

from pipeline.query.answer import SearchAnswer, SearchAnswers, SearchResult, answer_json
from pipeline.query.candidates import DeadlinePassed, FetchSettings
from pipeline.query.partition_census import PartitionCensus, PartitionState
from pipeline.query.query_batcher import QueryBatcher
from pipeline.query.request.invalid_request import InvalidRequest, MalformedRequest
from pipeline.query.request.request import MAX_BODY_BYTES, SearchRequest, parse_request, request_model
from pipeline.query.search import Searcher, SearchSettings
from pipeline.query.service import DirectEmbedder, Overloaded, QueryEmbedder, SearchReport, SearchService

__all__ = [
    "MAX_BODY_BYTES",
    "DeadlinePassed",
    "DirectEmbedder",
    "FetchSettings",
    "InvalidRequest",
    "MalformedRequest",
    "Overloaded",
    "PartitionCensus",
    "PartitionState",
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
    "parse_request",
    "request_model",
]
