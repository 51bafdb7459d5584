"""The error shape of OpenAI's API, in which clients of the compatible routes read what is wrong."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response
from typing_extensions import TypedDict

from consumers.http.problems import Problem, problem_of
from pipeline.query import DeadlinePassed, InvalidRequest

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_UNPROCESSABLE = 422


class ErrorDetail(TypedDict):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every error."""

    error: ErrorDetail


def error_response(error: Exception, names: Mapping[str, str] | None = None) -> Response:
    """The answer to a failed request; `names` are what the client calls the keys of our search request."""
    problem = problem_of(error)
    param = None
    message = problem.reason if problem.status < 500 and problem.reason else problem.detail
    if isinstance(error, DeadlinePassed):
        message = "there was no result in time; try again, or send less in one request"
    elif problem.more and "at" in problem.more:
        param = _param(str(problem.more["at"]), names or {})
        if isinstance(error, InvalidRequest):
            message = f"{param}: {error.detail}" if param else error.detail
    return problem_response(problem, message, param)


def problem_response(problem: Problem, message: str, param: str | None = None) -> Response:
    """A problem in OpenAI's shape. What we answer with 422 is 400 there."""
    status = 400 if problem.status == _UNPROCESSABLE else problem.status
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    detail = ErrorDetail(message=message, type=kind, param=param, code=problem.code.replace("-", "_"))
    return Response(orjson.dumps(ErrorBody(error=detail)), status, problem.headers, media_type="application/json")


def error_responses() -> dict[int | str, dict[str, Any]]:
    """What each status of a failed request means, for the OpenAPI document."""
    reasons = {
        400: "The request is not valid; `param` names the key.",
        413: "The body is too large.",
        415: "The body is not declared as application/json.",
        429: "Too many requests at a time; see Retry-After.",
        500: "Internal error.",
        503: "Milvus or the model cannot be used at the moment; see Retry-After.",
        504: "No result in time.",
    }
    return {status: {"description": reason, "model": ErrorBody} for status, reason in reasons.items()}


def _param(at: str, names: Mapping[str, str]) -> str | None:
    """A JSON pointer as OpenAI writes places: `filters.filters[0].value`."""
    keys = [key.replace("~1", "/").replace("~0", "~") for key in at.split("/")[1:]]
    if not keys:
        return None
    length = max((count for count in range(1, len(keys) + 1) if "/".join(keys[:count]) in names), default=1)
    first = "/".join(keys[:length])
    return names.get(first, first) + "".join(f"[{key}]" if key.isdecimal() else f".{key}" for key in keys[length:])
