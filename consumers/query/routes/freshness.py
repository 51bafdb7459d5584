"""`GET /v1/freshness`: how far the consumer group is, and the newest event time."""

from dataclasses import asdict

import orjson
import structlog
from fastapi import FastAPI, Request
from starlette.responses import Response

from consumers.http.problems import problem_of
from consumers.query.access import caller_of
from consumers.query.openapi import problem_responses
from pipeline.query import FreshnessReport, FreshnessWatch

_DESCRIPTION = """How fresh the collection is, at most a second old. `event_time` is the newest one that is known to be
searchable. `partitions` has, by Kafka partition, what the consumer group has committed, where the log ends, and the
records and seconds in between; a null is not known. Where the query worker has no Kafka, all of that is null. A key of
one tenant gets `lag_s` only."""

_log = structlog.get_logger(__name__)


def add_freshness(app: FastAPI, watch: FreshnessWatch) -> None:
    """`GET /v1/freshness`."""
    problems = problem_responses()

    @app.get(
        "/v1/freshness",
        summary="Freshness",
        description=_DESCRIPTION,
        responses={200: {"model": FreshnessReport}, 500: problems[500], 503: problems[503]},
    )
    async def freshness(request: Request) -> Response:
        try:
            report = await watch.report()
            if caller_of(request).tenant is not None:
                report = report.of_one_tenant
        except Exception as error:
            problem = problem_of(error)
            log = _log.exception if problem.status == 500 else _log.warning
            why = problem.reason or problem.detail
            log("freshness.failed", status=problem.status, problem=problem.code, reason=why)
            return problem.response()
        return Response(orjson.dumps(asdict(report)), media_type="application/json")
