"""The caller of a request: who it is, whose documents it may see, and what it may do."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from starlette.requests import Request
from starlette.types import Scope as RequestScope

from consumers.http.problems import HttpProblem, Problem

Scope: TypeAlias = Literal["search", "admin"]
"""`search`: read documents. `admin`: that, the metrics, and what changes the state of the service."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
MAX_TENANT_BYTES = 1_024
"""As long as the tenant of a record may be."""
_CALLER = "milvus_stream.caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request, as its key or token says."""

    name: str
    tenant: str | None
    """None: the documents of every tenant, and those without one."""
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether a scope is granted; `admin` includes `search`."""
        return scope in self.scopes or "admin" in self.scopes


LOCAL = Caller("anonymous", None, frozenset(SCOPES))
"""Everybody on this machine, where only this machine can connect and no keys are configured."""
ANYBODY = Caller("anonymous", None, frozenset({"search"}))
"""Everybody who can connect, where the configuration says so."""


def caller_of(request: Request) -> Caller:
    """The caller of a request that the access layer let in; RuntimeError where there is no such layer."""
    caller = request.scope.get(_CALLER)
    if not isinstance(caller, Caller):
        raise RuntimeError("the route is not behind the access layer")
    return caller


def admit(scope: RequestScope, caller: Caller) -> None:
    """Note the caller for the routes."""
    scope[_CALLER] = caller


def require(request: Request, scope: Scope) -> None:
    """Raise HttpProblem 403 unless the caller has this scope. Every caller that reaches a route may search."""
    check_scope(caller_of(request), scope)


def check_scope(caller: Caller, scope: Scope) -> None:
    """Raise HttpProblem 403 unless the caller has this scope."""
    if not caller.may(scope):
        raise forbidden(f"this needs the scope {scope}")


def forbidden(detail: str) -> HttpProblem:
    """The problem of a caller who is known and may not do this."""
    return HttpProblem(Problem(403, "forbidden", "Not permitted", detail))


def is_tenant(value: str) -> bool:
    """Whether a record's tenant could be this text: not blank, UTF-8, at most 1,024 bytes."""
    try:
        return bool(value.strip()) and len(value.encode()) <= MAX_TENANT_BYTES
    except UnicodeEncodeError:
        return False
