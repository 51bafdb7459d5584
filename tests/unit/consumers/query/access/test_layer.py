"""The access layer around the whole application: who is let in, what is refused before the body, and the audit log."""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.types import Message

from consumers.http.problems import HttpProblem
from consumers.query.access import (
    ANYBODY,
    Access,
    ApiKey,
    Caller,
    KeyFile,
    OidcTokens,
    caller_of,
    change_keys,
    new_key,
    require,
)
from consumers.query.access.rates import Rates
from consumers.query.app import create_app
from pipeline.query import DirectEmbedder, Searcher, SearchService
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.issuer import AUDIENCE, running_issuer
from tests.support.rigs.search import COLLECTION, Clock, Library

Make = Callable[..., str]


class Site:
    """A query worker's application behind a file of keys."""

    def __init__(self, milvus: FakeMilvus, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.registry = CollectorRegistry()
        embed = DirectEmbedder(lambda texts: np.array([[1, 0]] * len(texts), np.float32))
        self.service = SearchService(Searcher(milvus, COLLECTION), embed, QueryMetrics(self.registry), concurrency=2)
        path.write_text('{"keys": []}')
        self.serve(Access(self.file(), rates=Rates(self.clock)))

    def file(self) -> KeyFile:
        return KeyFile(self.path, self.clock)

    def serve(self, access: Access) -> None:
        self.app = create_app(self.service, dict, registry=self.registry, access=access)

    def key(self, name: str = "shop", **changes: Any) -> str:
        """A new key in the file, which the worker has read."""
        options = {"scopes": ("search",), "tenant": None, "rate": None, "created": datetime.now(UTC), "expires": None}
        key, stored = new_key(name, **{**options, **changes})
        self.store(stored)
        return key

    def store(self, stored: ApiKey) -> None:
        with change_keys(self.path) as keys:
            keys.append(stored)
        self.clock.now += 1

    def call(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        headers = {**options.pop("headers", {}), **({} if key is None else {"authorization": f"Bearer {key}"})}

        async def one() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers=headers, **options)

        return asyncio.run(one())

    def search(self, key: str | None = None, headers: dict[str, str] | None = None, **body: object) -> httpx.Response:
        return self.call("POST", "/v1/search", key, headers=headers or {}, json={"query": "q", **body})


@pytest.fixture
def site(milvus: FakeMilvus, tmp_path: Path) -> Iterator[Site]:
    made = Site(milvus, tmp_path / "keys.json")
    yield made
    made.service.close()


def problem(response: httpx.Response, status: int, code: str) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert body["type"] == f"urn:milvus-stream:problem:{code}"
    assert ("www-authenticate" in response.headers) is (status == 401)
    return str(body["detail"])


def test_without_a_key_nothing_but_probes_and_the_description_is_answered(site: Site) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert site.call("GET", path).status_code == 200
    for method, path in (("POST", "/v1/search"), ("GET", "/metrics"), ("GET", "/nothing"), ("GET", "//healthz"),
                         ("GET", "/healthz/"), ("GET", "/healthz/../metrics"), ("OPTIONS", "/v1/search")):  # fmt: skip
        response = site.call(method, path)
        problem(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == 'Bearer realm="milvus-stream"'
        assert response.headers["cache-control"] == "no-store"


def test_a_key_lets_in_until_it_is_revoked(site: Site) -> None:
    key = site.key()
    assert site.search(key).status_code == 200
    with change_keys(site.path) as keys:
        keys.clear()
    site.clock.now += 1
    assert "revoked" in problem(site.search(key), 401, "unauthenticated")


def test_a_key_lets_in_until_it_expires(site: Site) -> None:
    assert site.search(site.key(expires=datetime.now(UTC) + timedelta(hours=1))).status_code == 200
    key = site.key(expires=datetime.now(UTC) - timedelta(seconds=1))
    assert "expired" in problem(site.search(key), 401, "unauthenticated")
    changed = key[:-1] + ("0" if key[-1] != "0" else "1")
    assert "expired" not in problem(site.search(changed), 401, "unauthenticated"), "only its owner learns of it"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic {key}", "{key}", "Bearer {key} x", "Bearer {key},x", "Bearer\t{key}", "Bearer é",
     "Bearer ms_000000000000_" + "0" * 64, "Bearer {other}", "Bearer " + "x" * 20_000],
)  # fmt: skip
def test_what_is_no_key_is_refused_before_the_body_is_read(site: Site, header: str) -> None:
    key = site.key()
    other = f"{key[:16]}{'0' * 64}"
    given = header.format(key=key, other=other).encode("latin-1")
    assert asgi(site, [(b"authorization", given)]) == 401
    assert asgi(site, [(b"authorization", f"Bearer {key}".encode()), (b"authorization", given)]) == 401
    assert asgi(site, []) == 401


def asgi(site: Site, headers: list[tuple[bytes, bytes]]) -> int:
    """The status of a search whose body must not be read."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/search", "headers": headers, "query_string": b""}
    asyncio.run(site.app(scope, receive, send))
    return int(sent[0]["status"])


def test_the_scheme_may_be_written_small_as_http_has_it(site: Site) -> None:
    key = site.key()
    assert site.search(headers={"authorization": f"bearer  {key}"}).status_code == 200


def test_a_key_may_send_as_many_requests_as_its_rate_and_no_other_pays_for_it(site: Site) -> None:
    key, other = site.key(rate=0.5), site.key()
    assert site.search(key).status_code == 200
    refused = site.search(key)
    problem(refused, 429, "rate-limited")
    assert refused.headers["retry-after"] == "2"
    assert site.search(other).status_code == 200
    site.clock.now += 2
    assert site.search(key).status_code == 200


def test_metrics_are_for_admins_where_others_can_connect(site: Site) -> None:
    for path in ("/metrics", "/metrics%0A"):
        problem(site.call("GET", path, site.key()), 403, "forbidden")
    assert "query_requests_total" in site.call("GET", "/metrics", site.key(scopes=("admin",))).text
    site.serve(Access(anonymous=ANYBODY))
    assert site.search().status_code == 200
    assert "telemetry_port" in problem(site.call("GET", "/metrics"), 403, "forbidden")
    site.serve(Access())
    assert site.call("GET", "/metrics").status_code == 200


def test_a_token_without_a_scope_may_do_nothing(site: Site) -> None:
    with running_issuer() as issuer:
        site.serve(Access(tokens=OidcTokens(issuer.address, AUDIENCE, scope_claim="scope")))
        problem(site.search(issuer.token(scope="openid")), 403, "forbidden")
        assert site.search(issuer.token(scope="search")).status_code == 200


def test_a_prefix_distinguishes_keys_from_tokens(site: Site) -> None:
    with running_issuer() as issuer:
        site.serve(Access(site.file(), OidcTokens(issuer.address, AUDIENCE)))
        assert site.search(issuer.token()).status_code == 200
        assert site.search(site.key()).status_code == 200
        problem(site.search("ms_" + issuer.token()), 401, "unauthenticated")
        assert issuer.reads["/keys"] == 1


def test_routes_see_the_caller_and_ask_for_more_than_search(site: Site) -> None:
    app: FastAPI = site.app

    @app.get("/v1/who")
    def who(request: Request) -> dict[str, Any]:
        caller = caller_of(request)
        try:
            require(request, "admin")
        except HttpProblem as error:
            return {"name": caller.name, "admin": error.problem.status}
        return {"name": caller.name, "admin": True}

    assert site.call("GET", "/v1/who", site.key("ada")).json() == {"name": "ada", "admin": 403}
    assert site.call("GET", "/v1/who", site.key("bob", scopes=("admin",))).json() == {"name": "bob", "admin": True}
    with pytest.raises(RuntimeError, match="access layer"):
        caller_of(Request({"type": "http"}))


def test_a_tenant_finds_its_own_documents_only(site: Site, library: Library) -> None:
    library.put("a", 0.0, tenant="acme")
    library.put("b", 0.0, tenant="other")
    library.put("c", 0.0)
    key = site.key(tenant="acme")
    assert [result["doc_id"] for result in site.search(key).json()["results"]] == ["a"]
    assert {result["doc_id"] for result in site.search(site.key()).json()["results"]} == {"a", "b", "c"}
    for headers in ({"x-tenant": "other"}, {"tenant": "other"}):
        assert [result["doc_id"] for result in site.search(key, headers=headers).json()["results"]] == ["a"]
    assert site.search(key, tenant="other").status_code == 422


def test_the_audit_log_has_who_what_and_how_many_and_no_text(site: Site, library: Library) -> None:
    library.put("a", 0.0, tenant="acme")
    key = site.key("web shop", tenant="acme")
    with structlog.testing.capture_logs() as lines:
        site.search(key, query="my secret", filter={"type": "ne", "key": "word", "value": "secret"})
        site.search(key, query="my secret", limit=0)
        site.search("ms_" + "secret" * 3, query="my secret")
        site.call("GET", "/my/secret/path", key)
        site.call("GET", "/healthz")
    audit = [line for line in lines if line["event"] == "query.audit"]
    expected = [("web shop", "acme", "POST", "/v1/search", 200, 1), ("web shop", "acme", "POST", "/v1/search", 422, 0),
                (None, None, "POST", None, 401, None), ("web shop", "acme", "GET", None, 404, None)]  # fmt: skip
    shown = ("caller", "tenant", "method", "route", "status", "results")
    assert [tuple(line.get(name) for name in shown) for line in audit] == expected
    assert "secret" not in json.dumps(audit)
    assert key.rpartition("_")[2] not in json.dumps(lines)
    assert all(line["total_ms"] >= 0 for line in audit)


def test_the_audit_log_names_routes_that_are_not_of_fastapi(site: Site) -> None:
    site.app = create_app(site.service, dict, registry=site.registry, access=Access(site.file()), mcp=True)
    key = site.key(scopes=("admin",))
    with structlog.testing.capture_logs() as lines:
        site.call("GET", "/metrics", key)
        site.call("GET", "/mcp", key)
    routes = [(line["route"], line["status"]) for line in lines if line["event"] == "query.audit"]
    assert routes == [("/metrics", 200), ("/mcp", 405)]


def test_the_audit_log_has_texts_only_where_that_is_set(site: Site) -> None:
    site.serve(Access(site.file(), audit_text=True))
    with structlog.testing.capture_logs() as lines:
        site.search(site.key(), query=["first", "second"])
    assert [line["texts"] for line in lines if line["event"] == "query.audit"] == [["first", "second"]]


def test_nobody_is_audited_where_nobody_says_who_it_is(site: Site) -> None:
    site.serve(Access())
    with structlog.testing.capture_logs() as lines:
        assert site.search().status_code == 200
    assert [line["event"] for line in lines] == ["search.answered"]


def test_the_description_has_the_scheme_and_the_refusals(site: Site) -> None:
    published = site.call("GET", "/openapi.json").json()
    assert published["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    assert {"401", "403", "429"} <= published["paths"]["/v1/search"]["post"]["responses"].keys()


def test_an_admin_may_search() -> None:
    assert Caller("a", None, frozenset({"admin"})).may("search")
    assert not Caller("a", None, frozenset()).may("search")


def test_a_tenant_administers_nothing() -> None:
    caller = Caller("a", "acme", frozenset({"admin"}))
    assert caller.may("search")
    assert not caller.may("admin"), "the metrics, for one, count all tenants"
