"""Keys of browsers: the form, the cookie, what callers of one tenant and without the scope admin see."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from consumers.query.access import Access, KeyFile, change_keys, new_key
from pipeline.records import TENANT_FIELD
from tests.support.fakes.milvus import FakeMilvus
from tests.support.markup import elements, text
from tests.support.rigs.page import PageRig, Shelf, keys, pipeline_state
from tests.support.rigs.search import COLLECTION, Library

FORM = {"content-type": "application/x-www-form-urlencoded"}
PAGES = ("/", "/?q=secret", "/partitions", "/pipeline", "/document?id=a", "/freshness")


class Locked:
    """A page behind keys."""

    def __init__(self, make_page: Callable[..., PageRig], path: Path) -> None:
        access, self.keys = keys(path)
        self.shelf = Shelf()
        self.rig = make_page(access=access, documents=self.shelf, freshness=self.shelf, pipeline=pipeline_state)

    def get(self, path: str, name: str | None = None) -> httpx.Response:
        headers = {} if name is None else {"cookie": f"milvus_stream_key={self.keys[name]}"}
        return self.rig.get(path, headers=headers)

    def enter(self, key: str, **more: str) -> httpx.Response:
        return self.rig.call("POST", "/key", data={"key": key, **more}, headers=FORM)


@pytest.fixture
def locked(make_page: Callable[..., PageRig], tmp_path: Path) -> Locked:
    return Locked(make_page, tmp_path / "keys.json")


@pytest.mark.parametrize("path", PAGES)
def test_without_a_key_every_page_is_the_form_for_one(locked: Locked, milvus: FakeMilvus, path: str) -> None:
    before = len(milvus.calls)
    response = locked.get(path)
    assert response.status_code == 401
    assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert "Enter your key" in text(response.text)
    assert COLLECTION not in response.text
    assert len(milvus.calls) == before
    [next_] = [element for element in elements(response.text, "input") if element.attributes["name"] == "next"]
    assert next_.attributes["value"] == path


@pytest.mark.parametrize("cookie", ["milvus_stream_key=wrong", "milvus_stream_key=a%0d%0ab", "milvus_stream_key=", "x"])
def test_a_wrong_cookie_is_no_key(locked: Locked, cookie: str) -> None:
    assert locked.rig.get("/", headers={"cookie": cookie}).status_code == 401


def test_the_form_and_its_files_need_no_key(locked: Locked) -> None:
    form = locked.get("/key")
    assert form.status_code == 200
    for element in elements(form.text):
        address = element.attributes.get("src") or element.attributes.get("href") or ""
        if address.startswith("/static/"):
            assert locked.get(address).status_code == 200


def test_a_key_is_kept_in_a_cookie_that_scripts_cannot_read(locked: Locked, library: Library) -> None:
    library.put("a", 0.0)
    response = locked.enter(locked.keys["reader"], next="/?q=x")
    assert (response.status_code, response.headers["location"]) == (303, "/?q=x")
    cookie = response.headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    assert "max-age" not in cookie.lower()
    assert "1 result" in text(locked.rig.get("/?q=x", headers={"cookie": cookie.split(";")[0]}).text)


def test_a_key_that_is_too_fast_gets_a_page_that_says_when(make_page: Callable[..., PageRig], tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with change_keys(path) as stored:
        key, entry = new_key(
            "slow", scopes=("search",), tenant=None, rate=0.001, created=datetime.now(UTC), expires=None
        )
        stored.append(entry)
    rig = make_page(access=Access(KeyFile(path)))
    first, second = (rig.call("POST", "/key", data={"key": key}, headers=FORM) for _ in range(2))
    assert first.status_code == 303
    assert (second.status_code, second.headers["content-type"]) == (429, "text/html; charset=utf-8")
    assert int(second.headers["retry-after"]) > 900


def test_behind_tls_the_cookie_is_secure(locked: Locked) -> None:
    headers = {**FORM, "x-forwarded-proto": "https"}
    response = locked.rig.call("POST", "/key", data={"key": locked.keys["reader"]}, headers=headers)
    assert "Secure" in response.headers["set-cookie"].split("; ")
    assert "Secure" not in locked.enter(locked.keys["reader"]).headers["set-cookie"].split("; ")


def test_the_cookie_opens_no_api(locked: Locked) -> None:
    cookie = {"cookie": f"milvus_stream_key={locked.keys['operator']}"}
    assert locked.rig.call("POST", "/v1/search", json={"query": "x"}, headers=cookie).status_code == 401
    assert locked.rig.get("/metrics", headers=cookie).status_code == 401


def test_a_header_opens_a_page_as_well(locked: Locked) -> None:
    bearer = {"authorization": f"Bearer {locked.keys['reader']}", "cookie": "milvus_stream_key=wrong"}
    assert locked.rig.get("/", headers=bearer).status_code == 200


def test_a_wrong_key_is_refused_and_an_empty_one_is_forgotten(locked: Locked) -> None:
    for key in ("wrong", "x" * 5_000, "é" * 100, "a\r\nb: c", locked.keys["reader"][:-1] + "x"):
        with structlog.testing.capture_logs() as lines:
            response = locked.enter(key)
        assert response.status_code == 401
        assert "opens nothing" in text(response.text)
        assert "set-cookie" not in response.headers
        assert key not in response.text + str(lines)
    forgotten = locked.enter("")
    assert forgotten.status_code == 303
    assert 'milvus_stream_key=""' in forgotten.headers["set-cookie"]


@pytest.mark.parametrize(
    "next_",
    ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "/metrics", "/\n/x", "//["],
)
def test_after_a_key_the_way_leads_to_a_page_of_ours(locked: Locked, next_: str) -> None:
    assert locked.enter(locked.keys["reader"], next=next_).headers["location"] == "/"


def test_another_site_cannot_enter_a_key(locked: Locked) -> None:
    headers = {**FORM, "sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}
    response = locked.rig.call("POST", "/key", data={"key": locked.keys["reader"]}, headers=headers)
    assert response.status_code == 403
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize(
    "options",
    [
        {"content": b"key=operator", "headers": {"content-type": "text/plain"}},
        {"content": b"key=" + b"x" * 20_000, "headers": FORM},
        {"content": b"key=operator&" + b"a=1&" * 20, "headers": FORM},
        {"content": b"\xff\xfe", "headers": FORM},
    ],
)
def test_a_body_that_is_no_small_form_enters_nothing(locked: Locked, options: dict[str, Any]) -> None:
    response = locked.rig.call("POST", "/key", **options)
    assert response.status_code == 303
    assert 'milvus_stream_key=""' in response.headers["set-cookie"]


def test_a_caller_of_one_tenant_sees_nothing_of_others(locked: Locked, milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0, lang="en", secret_project="x")
    of_acme: dict[str, Any] = {TENANT_FIELD: "acme", "lang": "en"}
    library.put("b", 0.0, **of_acme)
    assert "secret_project" in locked.get("/?q=x", "operator").text
    counted = sum(operation == "count" for operation, _, _ in milvus.calls)
    assert counted > 0
    for path in ("/", "/?q=x"):
        page = locked.get(path, "acme").text
        assert "secret_project" not in page
        assert "Rows by Milvus partition" not in page
        assert "/partitions" not in page
    assert "1 result" in text(page)
    for path in ("/partitions", "/pipeline"):
        response = locked.get(path, "acme")
        assert response.status_code == 403
        assert "d20261122" not in response.text
    assert sum(operation == "count" for operation, _, _ in milvus.calls) == counted
    locked.get("/document?id=a", "acme")
    assert locked.shelf.calls == [("document", "a", "acme")]


def test_rejected_records_are_for_operators(locked: Locked) -> None:
    assert locked.get("/partitions", "reader").status_code == 200
    assert locked.get("/pipeline", "reader").status_code == 403
    assert "/pipeline" not in locked.get("/", "reader").text
    assert locked.get("/pipeline", "operator").status_code == 200


def test_a_search_of_the_page_is_in_the_audit_log(locked: Locked, library: Library) -> None:
    library.put("a", 0.0)
    with structlog.testing.capture_logs() as lines:
        locked.get("/?q=secret", "reader")
    [line] = [line for line in lines if line["event"] == "query.audit"]
    assert {name: line[name] for name in ("caller", "route", "status", "results")} == {
        "caller": "reader",
        "route": "/",
        "status": 200,
        "results": 1,
    }
    assert "secret" not in str(lines)
