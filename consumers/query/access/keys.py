"""API keys: how they are made, what is stored of them, and how one is recognised.

A key is `ms_<id>_<secret>` with a secret of 256 random bits. Stored is its SHA-256 and never the key. A slow hash such
as scrypt or Argon2 protects passwords, which can be guessed; nobody guesses 256 random bits, and a slow hash would let
anyone load the worker by sending wrong keys.
"""

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from consumers.query.access.caller import Caller, Scope, is_tenant

PREFIX = "ms_"
"""What tells a key from a token; scanners for leaked secrets find keys by it."""
_KEY = re.compile(r"ms_([0-9a-f]{12})_([0-9a-f]{64})", re.ASCII)
_NO_KEY = "0" * 64


def _tenant(value: str) -> str:
    if not is_tenant(value):
        raise ValueError("must not be blank, and has at most 1,024 bytes")
    return value


def _printable(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("must be printable and not blank")
    return value


class ApiKey(BaseModel):
    """A key as the file holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the whole key, in hex."""
    name: Annotated[str, Field(max_length=200), AfterValidator(_printable)]
    """Who uses it, for the audit log."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    tenant: Annotated[str, AfterValidator(_tenant)] | None = None
    rate: Annotated[float, Field(ge=0.001, le=1_000_000, allow_inf_nan=False)] | None = None
    """Requests a second; None: without a limit."""
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def expired(self, now: datetime) -> bool:
        """Whether the key's time is over."""
        return self.expires is not None and now >= self.expires

    @property
    def caller(self) -> Caller:
        """Whoever presents the key."""
        return Caller(self.name, self.tenant, frozenset(self.scopes))


def new_key(
    name: str,
    *,
    scopes: tuple[Scope, ...],
    tenant: str | None,
    rate: float | None,
    created: datetime,
    expires: datetime | None,
) -> tuple[str, ApiKey]:
    """A new key, and what is stored of it. Raises pydantic.ValidationError."""
    identifier = secrets.token_hex(6)
    key = f"{PREFIX}{identifier}_{secrets.token_hex(32)}"
    stored = ApiKey(
        id=identifier,
        sha256=_digest(key),
        name=name,
        scopes=scopes,
        tenant=tenant,
        rate=rate,
        created=created,
        expires=expires,
    )
    return key, stored


def key_id(text: str) -> str | None:
    """The id of what looks like a key, else None."""
    match = _KEY.fullmatch(text)
    return match[1] if match else None


def matches(key: ApiKey | None, text: str) -> bool:
    """Whether `text` is this key. None is compared, too, so that the time does not say which ids there are."""
    stored = _NO_KEY if key is None else key.sha256
    return hmac.compare_digest(_digest(text), stored) and key is not None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
