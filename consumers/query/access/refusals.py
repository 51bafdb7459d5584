"""The answers to requests without a usable key or token."""

from consumers.http.problems import HttpProblem, Problem

_REALM = 'Bearer realm="milvus-stream"'
_TITLE = "No access"


def unauthenticated(detail: str) -> HttpProblem:
    """401 to a wrong key or token, with the header that HTTP and RFC 6750 ask for."""
    problem = Problem(401, "unauthenticated", _TITLE, detail)
    return HttpProblem(problem, {"www-authenticate": f'{_REALM}, error="invalid_token"'})


def no_credentials() -> HttpProblem:
    """401 to a request that does not say who it is from."""
    detail = "send the header authorization: Bearer KEY; `milvus-stream keys create` makes keys"
    return HttpProblem(Problem(401, "unauthenticated", _TITLE, detail), {"www-authenticate": _REALM})
