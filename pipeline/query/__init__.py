"""From a request to an answer: `SearchService` checks it, embeds its texts, searches Milvus and shapes the results.

Free of transport: HTTP, the command line and every other way in call the same service.
"""

from pipeline.query.answer import SearchAnswer, SearchAnswers, SearchResult, answer_json
from pipeline.query.candidates import DeadlinePassed, FetchSettings
from pipeline.query.documents.answer import DocumentHistory, StoredDocument
from pipeline.query.documents.errors import DocumentUnreadable, NoSuchDocument
from pipeline.query.documents.reader import DocumentReader
from pipeline.query.documents.service import DocumentService
from pipeline.query.query_batcher import QueryBatcher
from pipeline.query.request.invalid_request import InvalidRequest, MalformedRequest
from pipeline.query.request.request import MAX_BODY_BYTES, SearchRequest, parse_request, request_model
from pipeline.query.request.similar import DocumentRequest, SimilarRequest, parse_similar, similar_model
from pipeline.query.search import Searcher, SearchSettings
from pipeline.query.service import DirectEmbedder, Overloaded, QueryEmbedder, SearchReport, SearchService

__all__ = [
    "MAX_BODY_BYTES",
    "DeadlinePassed",
    "DirectEmbedder",
    "DocumentHistory",
    "DocumentReader",
    "DocumentRequest",
    "DocumentService",
    "DocumentUnreadable",
    "FetchSettings",
    "InvalidRequest",
    "MalformedRequest",
    "NoSuchDocument",
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
    "SimilarRequest",
    "StoredDocument",
    "answer_json",
    "parse_request",
    "parse_similar",
    "request_model",
    "similar_model",
]
