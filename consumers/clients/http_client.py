"""The HTTP client for other servers: proxies and certificates are those of the environment."""

import ipaddress
import ssl
from collections.abc import AsyncIterator, Mapping

import httpx

from pipeline.errors import UsageError


def http_client(
    address: str,
    timeout: httpx.Timeout | None,
    headers: Mapping[str, str] | None = None,
    *,
    trusted: ssl.SSLContext | None = None,
) -> httpx.AsyncClient:
    """A client for the server at an address, which follows no redirects; `trusted`: certificates to check it by.

    Raises UsageError where the address, or the proxy or the certificates that the environment names cannot be used.
    """
    try:
        host = httpx.URL(address).host
    except httpx.InvalidURL as error:
        raise UsageError(f"{address} is no address of a server: {error}") from None
    # What listens on this machine is not reached through a proxy, which would see the key.
    direct = [f"all://[{host}]" if ":" in host else f"all://{host}"] if is_loopback(host) else []
    verify: ssl.SSLContext | bool = True if trusted is None else trusted
    try:
        return httpx.AsyncClient(
            timeout=timeout, headers=headers, mounts=dict.fromkeys(direct), verify=verify, follow_redirects=False
        )
    except OSError as error:
        raise UsageError(f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error}") from None
    except (ValueError, ImportError, httpx.InvalidURL):
        # The message would repeat the address, which may hold a password.
        raise UsageError(
            "the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: write http://HOST:PORT"
        ) from None


async def at_most(pieces: AsyncIterator[bytes], most_bytes: int) -> bytes | None:
    """An answer as its pieces arrive; None where it has more bytes, of which no more than a piece is read."""
    content = bytearray()
    async for piece in pieces:
        content += piece
        if len(content) > most_bytes:
            return None
    return bytes(content)


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, by its name or address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
