"""Which web sites may make a browser use the API: none by default, those of `query.cors_origins`, all with `*`."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from consumers.config import load_settings
from consumers.query.origins import Origins
from pipeline.errors import UsageError
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.page import keys
from tests.support.rigs.query_app import QueryApp, query_app
from tests.support.rigs.search import Library

APP, OTHER = "https://app.example.com", "https://evil.example"
GETS = [
    "/v1/retrieve?query=q",
    "/v1/statistics",
    "/v1/inputs",
    "/v1/documents/a",
    "/v1/documents/a/history",
    "/openapi.json",
]


def script(origin: str, mode: str = "cors") -> dict[str, str]:
    """The headers of a browser, for a script of another site."""
    return {"origin": origin, "sec-fetch-site": "cross-site", "sec-fetch-mode": mode, "sec-fetch-dest": "empty"}


def preflight(app: QueryApp, origin: str, path: str = "/v1/search", **headers: str) -> httpx.Response:
    asked = {
        **script(origin),
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
        **headers,
    }
    return app.call("OPTIONS", path, headers=asked)


def cors(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


@pytest.fixture
def behind_keys(milvus: FakeMilvus, library: Library, tmp_path: Path) -> Iterator[tuple[QueryApp, dict[str, str]]]:
    library.put("a", 0.0)
    access, texts = keys(tmp_path / "keys.json")
    with query_app(milvus, mcp=True, access=access, origins=Origins([APP])) as made:
        yield made, {"authorization": f"Bearer {texts['reader']}"}


@pytest.mark.parametrize("path", GETS)
@pytest.mark.parametrize("dest", ["image", "empty", "script", "iframe"])
def test_no_other_site_makes_a_browser_read_unless_it_is_configured(
    app: QueryApp, library: Library, path: str, dest: str
) -> None:
    library.put("a", 0.0)
    for site in ("cross-site", "same-site"):
        refused = app.call("GET", path, headers={"sec-fetch-site": site, "sec-fetch-dest": dest})
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:milvus-stream:problem:foreign-origin")
        assert not cors(refused)
    for headers in ({}, {"sec-fetch-site": "none"}, {"sec-fetch-site": "same-origin"}):
        assert app.call("GET", path, headers=headers).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    assert app.call("GET", path, headers=link).status_code == 200, "a link is followed by a person"


def test_a_preflight_is_answered_without_a_key_and_for_the_configured_site_only(
    behind_keys: tuple[QueryApp, dict[str, str]],
) -> None:
    app, _ = behind_keys
    for path in ("/v1/search", "/v1/embeddings", "/mcp"):
        answer = preflight(app, APP, path)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers
    for origin in (OTHER, f"{APP}.evil.example", "null", APP.upper(), f"{APP}:8443", "http://app.example.com"):
        refused = preflight(app, origin)
        assert refused.status_code == 403
        assert not cors(refused)
    assert preflight(app, APP, **{"access-control-request-method": "DELETE"}).status_code == 400
    assert preflight(app, APP, **{"access-control-request-headers": "x-own"}).status_code == 400


def test_answers_and_refusals_can_be_read_by_the_configured_site(behind_keys: tuple[QueryApp, dict[str, str]]) -> None:
    app, key = behind_keys
    for headers, status in ((key, 200), ({}, 401)):
        answer = app.call("POST", "/v1/search", json={"query": "q"}, headers={**script(APP), **headers})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, APP)
        assert "retry-after" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers
    assert app.call("GET", "/v1/retrieve?query=q", headers={**script(APP), **key}).status_code == 200


def test_an_answer_to_no_site_says_that_it_depends_on_the_site(behind_keys: tuple[QueryApp, dict[str, str]]) -> None:
    app, key = behind_keys
    for headers in (key, {**key, **script(OTHER)}):
        answer = app.call("GET", "/v1/statistics", headers=headers)
        assert answer.headers["vary"] == "Origin"
        assert not cors(answer)


def test_probes_metrics_and_the_page_have_no_cors(behind_keys: tuple[QueryApp, dict[str, str]]) -> None:
    app, key = behind_keys
    for path in ("/healthz", "/readyz", "/metrics", "/", "/key", "/nothing"):
        assert not cors(app.call("GET", path, headers={**key, **script(APP)})), path
        assert not cors(preflight(app, APP, path)), path


def test_all_sites_are_allowed_by_a_star_and_never_with_credentials(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    with query_app(milvus, origins=Origins(["*"])) as app:
        assert cors(preflight(app, OTHER))["access-control-allow-origin"] == "*"
        answer = app.call("POST", "/v1/search", json={"query": "q"}, headers={**script(OTHER), "cookie": "a=b"})
        assert (answer.status_code, cors(answer)["access-control-allow-origin"]) == (200, "*")
        assert "access-control-allow-credentials" not in answer.headers
        image = {"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}
        assert app.call("GET", "/v1/statistics", headers=image).status_code == 403, "it names no origin"


def test_tools_may_be_called_by_a_configured_site(behind_keys: tuple[QueryApp, dict[str, str]]) -> None:
    app, key = behind_keys
    get = {**key, "accept": "text/event-stream"}
    assert app.call("GET", "/mcp", headers={**get, **script(APP)}).status_code == 405
    headers = {**key, "origin": OTHER, "content-type": "application/json"}
    assert app.call("POST", "/mcp", content=b"{}", headers=headers).status_code == 403


@pytest.mark.parametrize(
    "origins", ["", APP, f"{APP}, http://localhost:3000", "*", "http://[::1]:8080", "chrome-extension://abc"]
)
def test_origins_as_settings(origins: str) -> None:
    settings = load_settings(None, {"MILVUS_STREAM__QUERY__CORS_ORIGINS": origins}, [])
    assert settings.query.cors_origins == tuple(filter(None, origins.split(", ")))


@pytest.mark.parametrize(
    "origin",
    [f"{APP}/", f"{APP}/path", "app.example.com", "https://", "HTTPS://a", "https://A.b", "https://u@a", "https://*.a"],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(UsageError, match=r"query\.cors_origins.*is no origin"):
        load_settings(None, {}, [f"query.cors_origins={origin}"])


def test_a_star_is_all() -> None:
    with pytest.raises(UsageError, match="leave the others out"):
        load_settings(None, {}, [f"query.cors_origins=*,{APP}"])
