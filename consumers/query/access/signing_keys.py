"""The keys an OpenID provider signs with: found by discovery, cached, and read again when an unknown one is named.

PyJWT's own client is not used: it blocks the event loop, takes an answer of any size, and has no back-off.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import structlog

from consumers.clients.http_client import at_most, is_loopback
from pipeline.backoff import Backoff
from pipeline.errors import Unavailable

if TYPE_CHECKING:
    from jwt.api_jwk import PyJWK

_FRESH_S = 300.0
"""After this time keys are read again; until that has succeeded, the last ones are used."""
_STALE_S = 3_600.0
"""But no longer: a key that the issuer has withdrawn is not trusted for ever because nobody answers."""
_PAUSE_S = 30.0
"""Least time between two successful reads: anyone can name unknown keys."""
_RETRY = Backoff(first_s=1.0, cap_s=60.0)
_TIMEOUT_S = 5.0
"""Of discovery and keys together. A request waits so long only where its key is not known."""
_MOST_BYTES = 256 * 1024

_log = structlog.get_logger(__name__)


class _Unusable(Exception):
    """An answer of the issuer that cannot be used."""


class SigningKeys:
    """The issuer's public keys; used on one event loop."""

    def __init__(self, issuer: str, algorithms: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        """`algorithms`: those that may be used; keys for others are left out."""
        self._issuer = issuer
        self._algorithms = frozenset(algorithms)
        self._clock = clock
        self._keys: list[PyJWK] = []
        self._read_at: float | None = None
        self._next_read = clock()
        self._failures = 0
        self._reading = asyncio.Lock()
        self._background: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> "PyJWK | None":
        """The key of this id; without an id the only key that there is. None: the issuer has no such key.

        Raises Unavailable where the issuer does not answer and no keys are known, or only too old ones.
        """
        if self._age() >= _STALE_S or self._match(kid) is None:
            await self._read()
        elif self._age() >= _FRESH_S and not self._reading.locked():
            self._background = asyncio.create_task(self._read())
        if self._age() >= _STALE_S:
            raise Unavailable(f"the keys of {self._issuer} could not be read")
        return self._match(kid)

    def _age(self) -> float:
        return float("inf") if self._read_at is None else self._clock() - self._read_at

    def _match(self, kid: str | None) -> "PyJWK | None":
        if kid is None:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.key_id == kid), None)

    async def _read(self) -> None:
        """Read the keys unless that was tried a moment ago; one read at a time, for which the others wait."""
        async with self._reading:
            if self._clock() < self._next_read:
                return
            # Set first: also a read that is cancelled counts.
            self._next_read = self._clock() + _TIMEOUT_S
            try:
                self._keys = await self._fetched()
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, _Unusable) as error:
                self._failures += 1
                pause_s = _RETRY.delay_s(self._failures, random.random())  # noqa: S311 - spreads retries
                self._next_read = self._clock() + pause_s
                why = str(error) or type(error).__name__
                _log.warning("access.issuer_unread", issuer=self._issuer, why=why, retry_s=round(pause_s, 1))
                return
            self._failures = 0
            self._read_at = self._clock()
            self._next_read = self._read_at + _PAUSE_S

    async def _fetched(self) -> "list[PyJWK]":
        async with asyncio.timeout(_TIMEOUT_S), httpx.AsyncClient(timeout=_TIMEOUT_S) as client:
            document = await _json(client, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if document.get("issuer") != self._issuer:
                raise _Unusable("its discovery document names another issuer; query.auth.oidc.issuer must equal it")
            address = document.get("jwks_uri")
            if not isinstance(address, str) or not is_safe(address):
                raise _Unusable("its jwks_uri is not an https address")
            published = (await _json(client, address)).get("keys")
        keys = self._usable(published if isinstance(published, list) else [])
        if not keys:
            raise _Unusable("it publishes no key that can verify a signature")
        return keys

    def _usable(self, published: Sequence[Any]) -> "list[PyJWK]":
        import jwt  # noqa: PLC0415 - an extra

        keys = []
        for entry in published:
            # `oct` is a secret; published, it is none, and whoever reads it could sign.
            if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
                continue
            try:
                key = jwt.PyJWK(entry)
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                continue  # of an algorithm that is not known here, or broken
            if key.algorithm_name in self._algorithms:
                keys.append(key)
        return keys


def is_safe(address: str) -> bool:
    """Whether keys may be read from an address: https, or http on this machine."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))


async def _json(client: httpx.AsyncClient, address: str) -> Mapping[str, Any]:
    """The JSON object at an address, without redirects: they would lead around `is_safe`."""
    async with client.stream("GET", address, headers={"accept": "application/json"}) as response:
        if response.status_code != httpx.codes.OK:
            raise _Unusable(f"{address} answers {response.status_code}")
        if (content := await at_most(response.aiter_bytes(), _MOST_BYTES)) is None:
            raise _Unusable(f"{address} answers more than {_MOST_BYTES:,} bytes")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise _Unusable(f"{address} answers no JSON") from None
    if not isinstance(value, dict):
        raise _Unusable(f"{address} answers no JSON object")
    return value
