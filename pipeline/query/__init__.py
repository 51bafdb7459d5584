"""From a request to hits: filters, the plan of Milvus partitions, the search.

The parser is the same for HTTP and the command line; the searcher blocks and is shared by threads.
"""

from pipeline.query.answer import (
    Result,
    SearchAnswer,
    SearchAnswers,
    Searched,
    SearchResult,
    Timing,
    answer,
    answer_json,
)
from pipeline.query.fetch import DeadlinePassed, FetchSettings
from pipeline.query.filters import Filter, compile_filter, filterable_fields, parse_filter
from pipeline.query.limits import InvalidRequest, Limits
from pipeline.query.request import SearchRequest, TimeRange, parse_duration, parse_request, parse_time
from pipeline.query.search import Searcher, SearchSettings

__all__ = [
    "DeadlinePassed",
    "FetchSettings",
    "Filter",
    "InvalidRequest",
    "Limits",
    "Result",
    "SearchAnswer",
    "SearchAnswers",
    "SearchRequest",
    "SearchResult",
    "SearchSettings",
    "Searched",
    "Searcher",
    "TimeRange",
    "Timing",
    "answer",
    "answer_json",
    "compile_filter",
    "filterable_fields",
    "parse_duration",
    "parse_filter",
    "parse_request",
    "parse_time",
]
