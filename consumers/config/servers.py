"""What the sections of other servers check alike: addresses, and secrets that are sent to them."""

import re
from urllib.parse import urlsplit

from consumers.config.units import Secret

_BEARER = re.compile(r"[A-Za-z0-9._~+/=-]+", re.ASCII)
"""RFC 6750."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def server_address(url: str | None, secrets: str) -> str | None:
    """The address as it is. Raises ValueError where it is none; `secrets`: where those belong that it must not hold."""
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("must be an http or https address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(f"must have no user, query or fragment; {secrets}")
    return url


def bearer(secret: Secret | None, what: str) -> Secret | None:
    """The secret as it is. Raises ValueError where it fits no header; `what` it is, in the words of the error."""
    if secret is not None and not _BEARER.fullmatch(secret.get_secret_value()):
        raise ValueError(f"has characters that no {what} has")
    return secret


def is_private(url: str) -> bool:
    """Whether nobody reads on the way to this address what is sent to it: https, or http on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
