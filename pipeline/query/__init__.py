"""From a request to an answer: `SearchService` checks it, embeds its texts, searches Milvus and shapes the results.

Free of transport: HTTP, the command line and every other way in call the same service.
"""

from pipeline.query.answer import Result, SearchAnswer, SearchAnswers, SearchResult, answer_json
from pipeline.query.canary_rows import EXCEPT_CANARIES, ONLY_CANARIES, is_canary
from pipeline.query.candidates import DeadlinePassed, FetchSettings
from pipeline.query.cursor import Cursors
from pipeline.query.description import CollectionDescription
from pipeline.query.documents.answer import DocumentHistory, StoredDocument
from pipeline.query.documents.errors import DocumentUnreadable, NoSuchDocument
from pipeline.query.documents.reader import DocumentReader
from pipeline.query.documents.service import DocumentService
from pipeline.query.embeddings import MAX_INPUTS, Embeddings, EmbeddingService, InputType
from pipeline.query.freshness.newest import NewestEventTime
from pipeline.query.freshness.offsets import NotFreshYet, OffsetReader, OffsetsUnavailable
from pipeline.query.freshness.watch import FreshnessReport, FreshnessWatch
from pipeline.query.highlights import mark
from pipeline.query.listing import DocumentStatistics, ListedDocument
from pipeline.query.partition_census import PartitionCensus, PartitionState
from pipeline.query.query_batcher import QueryBatcher
from pipeline.query.relevance import RelevanceScale
from pipeline.query.request.body import decode_json, parse_body
from pipeline.query.request.cursor_request import cursor_request_model
from pipeline.query.request.filters import StrictModel, is_text
from pipeline.query.request.invalid_request import InvalidRequest, MalformedRequest
from pipeline.query.request.request import (
    MAX_BODY_BYTES,
    MAX_QUERY_CHARS,
    MAX_SEARCH_BODY_BYTES,
    SearchRequest,
    parse_request,
    request_model,
)
from pipeline.query.request.similar import DocumentRequest, SimilarRequest, parse_similar, similar_model
from pipeline.query.rerank.model_reranker import ModelReranker
from pipeline.query.rerank.reranker import Reranker, RerankFailed
from pipeline.query.rerank.step import Reranking
from pipeline.query.search import Searcher, SearchSettings
from pipeline.query.service import DirectEmbedder, Overloaded, QueryEmbedder, SearchReport, SearchService
from pipeline.query.terms import terms_of

__all__ = [
    "EXCEPT_CANARIES",
    "MAX_BODY_BYTES",
    "MAX_INPUTS",
    "MAX_QUERY_CHARS",
    "MAX_SEARCH_BODY_BYTES",
    "ONLY_CANARIES",
    "CollectionDescription",
    "Cursors",
    "DeadlinePassed",
    "DirectEmbedder",
    "DocumentHistory",
    "DocumentReader",
    "DocumentRequest",
    "DocumentService",
    "DocumentStatistics",
    "DocumentUnreadable",
    "EmbeddingService",
    "Embeddings",
    "FetchSettings",
    "FreshnessReport",
    "FreshnessWatch",
    "InputType",
    "InvalidRequest",
    "ListedDocument",
    "MalformedRequest",
    "ModelReranker",
    "NewestEventTime",
    "NoSuchDocument",
    "NotFreshYet",
    "OffsetReader",
    "OffsetsUnavailable",
    "Overloaded",
    "PartitionCensus",
    "PartitionState",
    "QueryBatcher",
    "QueryEmbedder",
    "RelevanceScale",
    "RerankFailed",
    "Reranker",
    "Reranking",
    "Result",
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
    "StrictModel",
    "answer_json",
    "cursor_request_model",
    "decode_json",
    "is_canary",
    "is_text",
    "mark",
    "parse_body",
    "parse_request",
    "parse_similar",
    "request_model",
    "similar_model",
    "terms_of",
]
