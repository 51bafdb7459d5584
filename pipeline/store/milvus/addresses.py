"""Addresses of Milvus servers: their form in messages, and gRPC's options for reaching them."""

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import UsageError

_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""In the order in which gRPC reads them."""


def server_address(uri: str) -> str:
    """The uri without credentials, for messages; UsageError if it is no server's address."""
    scheme, separator, rest = uri.partition("://")
    address = rest.rpartition("@")[2]
    if not separator or scheme not in ("http", "https", "tcp", "unix") or not address or not _port_is_one(uri):
        raise UsageError(
            f"milvus.uri is {uri.rpartition('@')[2]!r}: write http://HOST:PORT, https://HOST:PORT (an IPv6 address in "
            "brackets, http://[::1]:19530) or a path ending in .db (served by Milvus Lite)"
        )
    return f"{scheme}://{address}"


def channel_options(uri: str) -> dict[str, Any]:
    """gRPC's options for a connection: gRPC itself repeats no call, and loopback needs no proxy."""
    options: dict[str, Any] = {"grpc.enable_retries": 0}
    if _is_loopback(_host(uri)):
        options["grpc.enable_http_proxy"] = 0
    return options


def proxy_hint(uri: str, env: Mapping[str, str]) -> str:
    """A sentence for errors about the proxy that gRPC uses for this server; empty where it uses none.

    The proxy's own address is left out: it may hold a password.
    """
    host = _host(uri)
    name = next((name for name in _PROXY_VARIABLES if env.get(name)), None)
    excluded = (part.strip() for part in (env.get("no_grpc_proxy") or env.get("no_proxy") or "").split(","))
    if name is None or not host or _is_loopback(host) or any(part and host.endswith(part) for part in excluded):
        return ""
    return (
        f" The connection goes through the proxy that the environment variable {name} names: add {host} to no_proxy "
        "if it should not."
    )


def keep_brackets() -> None:
    """Make pymilvus keep the brackets of an IPv6 address, which it loses and gRPC needs to find the port."""
    try:
        from pymilvus.client import connection_manager  # noqa: PLC0415
    except ImportError:
        return  # an older pymilvus, which keeps them
    config = connection_manager.ConnectionConfig
    original = config.from_uri.__func__
    if getattr(original, "keeps_brackets", False):
        return

    def from_uri(cls: Any, uri: str = "", *arguments: Any, **options: Any) -> Any:
        made = original(cls, uri, *arguments, **options)
        host, _, port = made.address.rpartition(":")
        return replace(made, address=f"[{host}]:{port}") if "]" in uri and _is_ipv6(host) else made

    from_uri.keeps_brackets = True  # type: ignore[attr-defined]
    config.from_uri = classmethod(from_uri)


def _host(uri: str) -> str:
    return urlsplit(uri).hostname or ""


def _port_is_one(uri: str) -> bool:
    """Whether the host is followed by a port or nothing; False for an unclosed bracket, too."""
    try:
        return uri.startswith("unix:") or urlsplit(uri).port != 0
    except ValueError:
        return False


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
