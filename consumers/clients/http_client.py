"""The HTTP client for other servers: proxies and certificates are those of the environment."""

from collections.abc import Mapping

import httpx

from pipeline.errors import UsageError

_HERE = ("all://localhost", "all://127.0.0.1", "all://[::1]")


def http_client(timeout: httpx.Timeout | None, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    """A client that follows no redirects. Raises UsageError where what the environment names cannot be used."""
    try:
        # What listens on this machine is not reached through a proxy: keys are sent to it without TLS.
        return httpx.AsyncClient(timeout=timeout, headers=headers, mounts=dict.fromkeys(_HERE), follow_redirects=False)
    except OSError as error:
        raise UsageError(f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: {error}") from None
    except (ValueError, ImportError, httpx.InvalidURL):
        # The message would repeat the address, which may hold a password.
        raise UsageError(
            "the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used: write http://HOST:PORT"
        ) from None
