"""`POST /v1/similar`: documents similar to one that is stored."""

from functools import partial

import orjson
from fastapi import FastAPI, Request
from starlette.responses import Response

from consumers.http.problems import problem_of
from consumers.query.access import caller_of
from consumers.query.admission import Admission
from consumers.query.body import read_body
from consumers.query.openapi import json_body, problem_responses
from consumers.query.routes.documents import NO_DOCUMENT
from consumers.query.routes.search import log_and_note
from pipeline.query import MAX_BODY_BYTES, DocumentService, SearchAnswer, similar_model

_DESCRIPTION = """Find documents that are similar in meaning to a stored document (`doc_id`) or to one of its chunks
(`chunk_id`, the `id` of a result). Nothing is embedded: the stored vectors are compared, of a document the mean of the
vectors of its chunks, scaled to their mean length. The document itself is left out of the results. The other keys are
those of a search."""


def add_similar(app: FastAPI, documents: DocumentService, admission: Admission) -> None:
    """`POST /v1/similar`."""

    @app.post(
        "/v1/similar",
        summary="Similar documents",
        description=_DESCRIPTION,
        responses={200: {"model": SearchAnswer}, **problem_responses(), **NO_DOCUMENT},
        openapi_extra=json_body(similar_model(documents.max_results)),
    )
    async def similar(request: Request) -> Response:
        try:
            body = await read_body(request, MAX_BODY_BYTES)
            answer = await documents.similar(
                body,
                admit=partial(admission.admit, request),
                report=partial(log_and_note, request),
                tenant=caller_of(request).tenant,
            )
        except Exception as error:
            return problem_of(error).response()
        return Response(orjson.dumps(answer), media_type="application/json")
