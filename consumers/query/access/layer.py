"""The access layer: every request is let in or refused before its body is read.

1. A path in `_OPEN` (probes, the description of the API, the page's form for a key and its static files): let in.
2. No keys and no issuer: the caller is `Access.anonymous`.
3. `Authorization: Bearer` with a key or a token: the caller it names; a wrong one is 401.
4. A key whose bucket is empty: 429 with the seconds to wait.
5. A caller without the scope that the path needs: 403. `/metrics` needs `admin`, unless only this machine can connect.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.types import ASGIApp, Receive, Scope, Send

from consumers.http.problems import HttpProblem, Problem
from consumers.query.access.audit import AuditEntry
from consumers.query.access.caller import LOCAL, Caller, admit, check_scope, forbidden
from consumers.query.access.key_file import KeyFile
from consumers.query.access.keys import PREFIX, key_id, matches
from consumers.query.access.oidc import OidcTokens
from consumers.query.access.rates import Rates
from consumers.query.access.refusals import no_credentials, unauthenticated

_OPEN = frozenset({"/healthz", "/readyz", "/openapi.json", "/key"})
_OPEN_FOLDER = "/static/"
_METRICS = "/metrics"
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]+)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Access:
    """What is needed to be let in."""

    keys: KeyFile | None = None
    tokens: OidcTokens | None = None
    anonymous: Caller = LOCAL
    """The caller where there are neither keys nor tokens."""
    audit_text: bool = False
    rates: Rates = field(default_factory=Rates)

    @property
    def authenticates(self) -> bool:
        """Whether callers must say who they are."""
        return self.keys is not None or self.tokens is not None

    async def caller(self, headers: list[tuple[bytes, bytes]]) -> Caller:
        """The caller of a request with these headers. Raises HttpProblem 401, 429, 503."""
        if not self.authenticates:
            return self.anonymous
        text = _bearer(headers)
        if self.keys is not None and (self.tokens is None or text.startswith(PREFIX)):
            return self._by_key(self.keys, text)
        assert self.tokens is not None  # noqa: S101 - see `authenticates`
        return await self.tokens.caller(text)

    def _by_key(self, file: KeyFile, text: str) -> Caller:
        known = file.keys()
        key = known.get(key_id(text) or "")
        if not matches(key, text) or key is None:
            raise unauthenticated("the key is not known here; it may have been revoked")
        if key.expired(datetime.now(UTC)):
            raise unauthenticated("the key has expired")
        if key.rate is not None:
            self.rates.keep(known)
            if wait_s := self.rates.take(key.id, key.rate):
                raise _too_many(key.rate, wait_s)
        return key.caller


class AccessLayer:
    """The layer around an application that lets requests in; those it answers itself are in the audit log, too."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != "http" or scope["path"] in _OPEN or scope["path"].startswith(_OPEN_FOLDER):
            await self._app(scope, receive, send)
            return
        if not (self._access.authenticates or self._access.audit_text):
            await self._let_in(scope, receive, send, None)
            return
        entry = AuditEntry(scope, with_texts=self._access.audit_text)
        try:
            await self._let_in(scope, receive, entry.watching(send), entry)
        finally:
            entry.write()

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, entry: AuditEntry | None) -> None:
        try:
            caller = await self._access.caller(scope["headers"])
            if entry is not None:
                entry.caller = caller
            _check_path(caller, scope["path"])
        except HttpProblem as error:
            await error.problem.response(error.headers)(scope, receive, send)
            return
        admit(scope, caller)
        await self._app(scope, receive, send)


def _check_path(caller: Caller, path: str) -> None:
    if path.rstrip("\n") != _METRICS:  # a route's pattern also matches with a line break at the end
        check_scope(caller, "search")
    elif not caller.may("admin"):
        raise forbidden(
            "metrics of all tenants are for a key with the scope admin; without a key they are on query.telemetry_port"
        )


def _bearer(headers: list[tuple[bytes, bytes]]) -> str:
    given = [value for name, value in headers if name == b"authorization"]
    if not given:
        raise no_credentials()
    match = _BEARER.fullmatch(given[0].decode("latin-1")) if len(given) == 1 else None
    if match is None:
        raise unauthenticated("send one header authorization: Bearer KEY")
    return match[1]


def _too_many(rate: float, wait_s: float) -> HttpProblem:
    retry: Mapping[str, str] = {"retry-after": str(math.ceil(wait_s))}
    detail = f"the key may send {rate:g} requests a second; retry after the seconds of Retry-After"
    return HttpProblem(Problem(429, "rate-limited", "Too many requests with this key", detail), retry)
