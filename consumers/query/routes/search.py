"""`POST /v1/search`: one request to the search service, and the line of the log about it."""

from functools import partial
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from starlette.responses import Response

from consumers.http.problems import problem_of
from consumers.query.access import caller_of, note
from consumers.query.admission import Admission
from consumers.query.body import LargeBodies, read_search
from consumers.query.openapi import json_body, problem_responses
from pipeline.query import (
    SearchAnswer,
    SearchAnswers,
    SearchReport,
    SearchService,
    cursor_request_model,
    request_model,
)

_DESCRIPTION = """Find the documents that fit a text by meaning, by exact words, or by both.

`mode` `dense` compares vectors, `keyword` words (BM25), `hybrid` fuses both orders; without one a search is hybrid
where the collection has a keyword index, which Milvus 2.5 and newer fill. The answer says which it was. A `query` that
is a list is answered with `answers`, one for each text in the same order; a single text with `results`.
Results are ordered by `score`, higher is better. Only the newest version of a document is shown, and with `group_by`
`doc_id` (the default) only its best chunk, or its best `group_size`. `vector` brings the vectors along, and nothing is
embedded then. `searched` counts the Milvus partitions that were read and those the time range left out; `partial` says
that the time ran out before enough documents were collected. `explain` adds how the answer was found, `count` how many
rows the filter and the time range match. `limit` times the number of texts and the bytes of the results are bounded; a
request beyond is answered 422.
`highlights` adds to each result where its text has terms of the query, and the sentence that fits best. `facets` counts
values of metadata. `rerank` lets a reranker order the best candidates, where the service has one. `next_cursor` leads
to the next page: send it as `cursor`, with nothing else but `limit` and `timeout_ms`."""

_log = structlog.get_logger(__name__)


def add_search(app: FastAPI, service: SearchService, admission: Admission) -> None:
    """`POST /v1/search`."""
    large = LargeBodies()

    @app.post(
        "/v1/search",
        summary="Search",
        description=_DESCRIPTION,
        responses={200: {"model": SearchAnswer | SearchAnswers}, **problem_responses()},
        openapi_extra=json_body(request_model(service.max_results), cursor_request_model(service.max_results)),
    )
    async def search(request: Request) -> Response:
        try:
            body = await read_search(request, large)
            answer = await service.answer(
                body,
                tenant=caller_of(request).tenant,
                admit=partial(admission.admit, request),
                report=partial(log_and_note, request),
            )
        except Exception as error:
            return problem_of(error).response()
        return Response(orjson.dumps(answer), media_type="application/json")


def log_and_note(request: Request, report: SearchReport) -> None:
    """Log a search as `log_search`, and note it for the audit log."""
    log_search(report)
    texts = () if report.request is None else report.request.queries
    note(request, results=result_count(report.answer), texts=texts)


def result_count(answer: SearchAnswer | SearchAnswers | None) -> int:
    """The number of results of all texts; None: there is no answer."""
    if answer is None:
        return 0
    if isinstance(answer, SearchAnswer):
        return len(answer.results)
    return sum(len(one.results) for one in answer.answers)


def log_search(report: SearchReport) -> None:
    """Log one line for a search that has ended; never its texts, its filter or what it found."""
    facts: dict[str, Any] = {}
    if (request := report.request) is not None:
        facts.update(queries=len(request.queries), limit=request.limit, filtered=request.filter is not None)
    if report.error is not None:
        problem = problem_of(report.error)
        facts.update(problem.more or {}, status=problem.status, problem=problem.code)
        log = _log.exception if problem.status == 500 else _log.warning
        log("search.failed", **facts, reason=problem.reason or problem.detail)
    elif (answer := report.answer) is not None:
        _log.info(
            "search.answered",
            status=200,
            **facts,
            mode=answer.mode,
            results=result_count(answer),
            partial=answer.partial,
            partitions_searched=answer.searched.partitions,
            partitions_skipped=answer.searched.skipped,
            embed_ms=answer.timing_ms.embed,
            search_ms=answer.timing_ms.search,
            total_ms=answer.timing_ms.total,
        )
