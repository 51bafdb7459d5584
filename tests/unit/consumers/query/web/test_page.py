"""The page through a client without scripts: every page's headers and markup, searches, errors, keys, tenants."""

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import structlog

from consumers.query.access import Access
from consumers.query.web.ports import DeadLetterSample, PipelineState, WholeDocument
from pipeline.errors import Unavailable
from pipeline.query import NoSuchDocument, SearchAnswer
from tests.support.fakes.milvus import FakeMilvus
from tests.support.markup import elements, links, text
from tests.support.rigs.page import HOSTILE, PageRig, Shelf, marks, pipeline_state
from tests.support.rigs.page import keys as stored_keys
from tests.support.rigs.search import COLLECTION, Library

MakePage = Callable[..., PageRig]
FORM = {"content-type": "application/x-www-form-urlencoded"}
POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
}
PAGES = [
    "/",
    "/?q=chunk",
    "/?q=chunk&scores=1&where=lang=en&from=2026-11-20&page=2",
    "/?q=chunk&last=yesterday",
    "/?q=chunk&where=nonsense",
    "/?q=chunk&mode=keyword",
    "/?similar=a",
    "/partitions",
    "/pipeline",
    "/document?id=a",
    "/document?id=missing",
    "/document",
]


@pytest.fixture
def hostile_page(make_page: MakePage, library: Library) -> PageRig:
    """A page whose every text is hostile."""
    for number in range(12):
        metadata: dict[str, Any] = {"title": HOSTILE, "lang": "en", f"k{HOSTILE}": HOSTILE}
        library.put(f"{number} {HOSTILE}", number, **metadata)
    library.api.create_partition(COLLECTION, "any_time")
    shelf = Shelf()
    shelf.documents["a"] = WholeDocument(HOSTILE, HOSTILE, "2026-11-22T00:00:00Z", {HOSTILE: [HOSTILE]}, complete=False)
    return make_page(
        documents=shelf, freshness=shelf, marks=marks, pipeline=pipeline_state, similar=Likes(), max_results=1_000
    )


class Likes:
    async def similar(self, body: object, **options: Any) -> SearchAnswer:
        raise NoSuchDocument("no document with this id is stored")


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_a_strict_policy_and_nothing_inline(hostile_page: PageRig, path: str) -> None:
    response = hostile_page.get(path)
    assert set(re.split(r"; ?", response.headers["content-security-policy"])) == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    found = elements(response.text)
    for element in found:
        assert element.tag not in {"style", "base", "iframe", "object", "embed", "img"}
        assert not [name for name in element.attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href", "action", "hx-get"):
            assert (element.attributes.get(name) or "/").startswith(("/", "#main")), element
    scripts = [element for element in found if element.tag == "script"]
    assert len(scripts) == 1
    assert (scripts[0].attributes["src"] or "").startswith("/static/htmx.min.js?v=")


@pytest.mark.parametrize("path", PAGES)
def test_every_page_can_be_read_by_a_screen_reader(hostile_page: PageRig, path: str) -> None:
    found = elements(hostile_page.get(path).text)
    identifiers = [element.attributes["id"] for element in found if "id" in element.attributes]
    assert len(identifiers) == len(set(identifiers))
    assert found[0].attributes["lang"] == "en"
    assert len([element for element in found if element.tag == "h1"]) == 1
    labels = {element.attributes.get("for") for element in found if element.tag == "label"}
    for element in found:
        if element.tag in {"input", "select"} and element.attributes.get("type") not in ("hidden", "checkbox"):
            assert element.attributes["id"] in labels
    for name in ("aria-labelledby", "aria-describedby"):
        for element in found:
            assert element.attributes.get(name) in (None, *identifiers)


@pytest.mark.parametrize("path", ["/?q=chunk&scores=1", "/document?id=a", "/pipeline"])
def test_hostile_text_arrives_as_text(hostile_page: PageRig, path: str) -> None:
    page = hostile_page.get(path).text
    assert "<script>document" not in page
    assert 'onerror="' not in page
    assert HOSTILE in text(page)


def test_a_hostile_address_is_text_as_well(rig: PageRig) -> None:
    page = rig.get("/", params={"q": HOSTILE, "where": f"lang={HOSTILE}", "mode": HOSTILE, "last": HOSTILE}).text
    assert "<script>document" not in page
    [query] = [element for element in elements(page, "input") if element.attributes.get("id") == "q"]
    assert query.attributes["value"] == HOSTILE


def test_a_search_shows_cards_and_its_address_is_all_there_is(make_page: MakePage, library: Library) -> None:
    library.put("a", 0.0, offset=7, title="The refund failed", lang="en")
    library.put("b", 10.0, lang="de")
    page = text(make_page(marks=marks).get("/?q=chunk").text)
    assert "2 results by meaning" in page
    for part in ("The refund failed", "chunk 0 of a", "2026-11-22 00:00", "d20261122", "topic/0 @ 7", "lang en"):
        assert part in page
    assert "score 1.000" not in page
    assert "score 1.000" in text(make_page().get("/?q=chunk&scores=1").text)


def test_the_words_that_match_are_marked(make_page: MakePage, library: Library) -> None:
    library.put("a<b", 0.0)
    page = make_page(marks=marks).get("/?q=CHUNK b").text
    assert "<mark>chunk</mark> 0 of a&lt;<mark>b</mark>" in page


def test_options_become_the_request(rig: PageRig, library: Library) -> None:
    library.put("a", 0.0, day="2026-11-20", lang="en")
    library.put("b", 0.0, day="2026-11-22", lang="en")
    library.put("b", 1.0, day="2026-11-22", lang="en", chunk=1)
    library.put("c", 0.0, day="2026-11-22", lang="de")
    assert "4 results" in text(rig.get("/?q=x&chunks=1").text)
    assert "3 results" in text(rig.get("/?q=x").text)
    page = rig.get("/?q=x&from=2026-11-21&to=2026-11-23&where=lang=en").text
    assert "1 result by meaning" in text(page)
    assert "lang is en" in text(page)
    assert links(page)["×"] == "/?q=x&from=2026-11-21&to=2026-11-23"
    assert "Nothing was found" in text(rig.get("/?q=x&last=1h").text)


def test_a_new_condition_gets_an_address_of_its_own(rig: PageRig) -> None:
    response = rig.get("/", params={"q": "x", "where": "n>1", "key": "lang", "op": "!=", "value": "en", "page": "3"})
    assert response.status_code == 303
    assert response.headers["location"] == "/?q=x&where=n%3E1&where=lang%21%3Den"


def test_what_a_form_sends_leads_to_the_address_that_is_shared(rig: PageRig) -> None:
    sent = "/?q=x&mode=&last=custom&recency=&from=&to=&key=&op=%3D&value="
    assert rig.get(sent).headers["location"] == "/?q=x"
    assert rig.get("/?q=&value=").headers["location"] == "/"


@pytest.mark.parametrize(
    ("query", "wrong", "says"),
    [
        ("q=x&last=yesterday", "last", "Time: must be a number above 0"),
        ("q=x&from=2026-11-23&to=2026-11-22", "last", "is empty: from must be before to"),
        ("q=x&from=monday", "from", "From: must be an RFC 3339 time"),
        ("q=x&mode=fuzzy", "mode", "Mode: must be dense, keyword, hybrid or null"),
        ("q=x&mode=keyword", "mode", "Mode: needs a keyword index"),
        ("q=x&recency=soon", "recency", "Prefer newer: must be a number above 0"),
        ("q=x&where=nonsense", "value", "a condition is written where=key=value"),
        ("q=x&where=a][=1", "value", "Conditions: contains ]["),
        ("q=x&where=a=NaN", "value", "Conditions: must be a finite number"),
        ("q=x&op==&value=1", "value", "choose the field"),
        ("q=x&key=a%3Db&op==&value=1", "value", "a field whose name contains"),
        ("q=x&key=a&op=~&value=1", "value", "a condition is one of"),
    ],
)
def test_what_is_wrong_is_named_beside_its_field(rig: PageRig, query: str, wrong: str, says: str) -> None:
    response = rig.get(f"/?{query}")
    assert response.status_code == 422
    assert says in text(response.text)
    marked = [element.attributes["id"] for element in elements(response.text) if "aria-invalid" in element.attributes]
    assert marked == [wrong]


def test_a_query_that_is_too_long_is_refused_as_by_the_service(rig: PageRig) -> None:
    response = rig.get("/", params={"q": "x" * 8_193})
    assert response.status_code == 422
    assert "Search for: has 8,193 characters" in text(response.text)


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "page=x", "page=99999999999999999999", "page=%B2", "unknown=1", "q=%20&mode=x"]
)
def test_an_odd_address_is_no_error(rig: PageRig, query: str) -> None:
    assert rig.get(f"/?{query}").status_code == 200


def test_pages_follow_one_another_without_gap_or_repeat(make_page: MakePage, library: Library) -> None:
    for number in range(25):
        library.put(f"document-{number:02}", number)
    rig = make_page()
    address, seen = "/?q=x", []
    for count in (10, 10, 5):
        page = rig.get(address).text
        documents = re.findall(r'<h3 id="r\d+" dir="auto">(document-\d+)</h3>', page)
        assert len(documents) == count
        seen += documents
        address = links(page).get("Further results →", "")
    assert seen == [f"document-{number:02}" for number in range(25)]
    assert address == ""
    assert "There are no further results" in text(rig.get("/?q=x&page=9").text)


def test_the_last_page_ends_where_a_search_may_not_give_more(make_page: MakePage, library: Library) -> None:
    for number in range(12):
        library.put(f"document-{number:02}", number)
    few = make_page(max_results=5).get("/?q=x&page=4")
    assert few.status_code == 200
    assert len(elements(few.text, "h3")) == 5
    assert "Further results" not in few.text
    assert len(elements(make_page(max_results=10).get("/?q=x").text, "h3")) == 10


def test_a_long_address_and_many_fields_make_no_large_page(rig: PageRig, library: Library) -> None:
    for number in range(30):
        fields = {f"field{name:03}": number for name in range(200)}
        library.put(f"document-{number:02}", number, f"2026-11-{number % 28 + 1:02}", **fields)
    everything = [("q", "ü" * 8_000), *(("where", f"field{number:03}>=0") for number in range(20))]
    response = rig.get("/", params=everything)
    assert response.status_code == 200
    assert len(elements(response.text, "h3")) == 10
    assert len(response.content) < 2_000_000
    assert "and further fields 160" in text(response.text)
    refused = rig.get("/", params=[("q", "x"), *(("where", f"n={number}") for number in range(2_000))])
    assert refused.status_code == 422
    assert "takes 20 conditions" in text(refused.text)
    assert len(refused.content) < 2_000_000


def test_known_names_are_offered(rig: PageRig, library: Library) -> None:
    library.put("a", 0.0, lang="en", priority=3)
    rig.get("/?q=x")
    names = [element.attributes["value"] for element in elements(rig.get("/").text, "option")]
    assert {"doc_id", "lang", "priority"} <= set(names)


def test_the_histogram_shows_what_a_search_covered(rig: PageRig, milvus: FakeMilvus, library: Library) -> None:
    for day in ("2026-11-20", "2026-11-21", "2026-11-22"):
        library.put(day, 0.0, day=day)
    milvus.release_partitions(COLLECTION, ["d20261121"])
    page = rig.get("/?q=x&from=2026-11-21").text
    for part in (
        "d20261120: 1 row, outside the time range",
        "d20261121: rows not counted, not loaded",
        "d20261122: 1 row, searched",
    ):
        assert part in text(page)
    states = [element.attributes["class"] for element in elements(page, "rect") if element.attributes.get("x")]
    assert [state for state in states if state != "back"][:3] == ["bar skipped", "bar cold", "bar hot"]
    [link] = [address for label, address in links(page).items() if label == "d20261120: 1 row, outside the time range"]
    assert parse_qs(urlsplit(link).query) == {
        "q": ["x"],
        "from": ["2026-11-20T00:00:00Z"],
        "to": ["2026-11-21T00:00:00Z"],
    }


def test_milvus_away_is_said_and_where_it_is_stays_in_the_log(rig: PageRig, milvus: FakeMilvus) -> None:
    def away(*_: str) -> None:
        raise Unavailable("Milvus at http://milvus.internal:19530 does not answer")

    milvus.hook = away
    with structlog.testing.capture_logs() as lines:
        response = rig.get("/?q=x")
        overview = rig.get("/partitions")
    assert response.status_code == 503
    assert "Search is not available now" in text(response.text)
    assert "Milvus does not answer" in text(overview.text)
    assert "milvus.internal" not in response.text + overview.text
    assert "milvus.internal" in str(lines)


def test_a_page_without_milvus_says_when_to_try_again(rig: PageRig, milvus: FakeMilvus) -> None:
    milvus.down = True
    response = rig.get("/?q=x")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "kept in Kafka" in text(response.text)


def test_the_last_known_partitions_are_shown_while_milvus_is_away(
    rig: PageRig, milvus: FakeMilvus, library: Library
) -> None:
    library.put("a", 0.0)
    assert "1 rows in 1 Milvus partitions" in text(rig.get("/partitions").text)
    milvus.down = True
    assert "1 rows in 1 Milvus partitions" in text(rig.get("/partitions").text)


def test_a_bug_is_one_log_entry_and_a_page_without_its_text(make_page: MakePage, library: Library) -> None:
    library.put("a", 0.0)

    def broken(query: str, text: str) -> list[tuple[int, int]]:
        raise KeyError("secret")

    with structlog.testing.capture_logs() as lines:
        response = make_page(marks=broken).get("/?q=x")
    assert response.status_code == 500
    assert "Internal error" in text(response.text)
    assert "secret" not in response.text
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["page.failed"]


def test_the_log_has_no_query(rig: PageRig) -> None:
    with structlog.testing.capture_logs() as lines:
        rig.get("/?q=secret&where=word=secret")
        rig.get("/?q=secret&last=secret")
    assert [line["event"] for line in lines if line["event"].startswith("search.")] == [
        "search.answered",
        "search.failed",
    ]
    assert "secret" not in str(lines)


def test_the_page_takes_the_places_of_searches(make_page: MakePage, milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    rig = make_page(concurrency=1)

    entered, go_on = threading.Event(), threading.Event()

    def wait(operation: str, collection: str, when: str) -> None:
        if operation == "search" and when == "before":
            entered.set()
            go_on.wait(10)

    milvus.hook = wait

    async def run() -> list[int]:
        transport = httpx.ASGITransport(rig.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            first = asyncio.create_task(client.post("/v1/search", json={"query": "x"}))
            await asyncio.to_thread(entered.wait, 10)
            refused = await client.get("/?q=x")
            go_on.set()
            return [refused.status_code, (await first).status_code]

    assert asyncio.run(run()) == [429, 200]


@pytest.mark.parametrize("path", ["/", "/?q=x", "/partitions", "/pipeline"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-dest": "empty"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-dest": "empty"}, 200),
        ({}, 200),
    ],
)
def test_other_web_sites_may_link_and_not_load(
    rig: PageRig, milvus: FakeMilvus, path: str, headers: dict[str, str], status: int
) -> None:
    before = len(milvus.calls)
    assert rig.get(path, headers=headers).status_code == status
    assert status == 200 or len(milvus.calls) == before


def test_parts_that_are_absent_have_no_link(make_page: MakePage, library: Library) -> None:
    library.put("a", 0.0)
    page = make_page().get("/?q=x").text
    for word in ("/document", "similar=", "/freshness", "/key"):
        assert word not in page
    assert make_page().get("/document?id=a").status_code == 404
    assert make_page().get("/key").status_code == 404
    assert "Kafka is not configured" in text(make_page().get("/pipeline").text)


def test_a_document_is_shown_whole(make_page: MakePage, library: Library) -> None:
    library.put("a/b?c", 0.0)
    shelf = Shelf()
    shelf.documents["a/b?c"] = WholeDocument("a/b?c", "first\nsecond", "2026-11-22T09:30:00Z", {"lang": "en"})
    rig = make_page(documents=shelf)
    page = rig.get("/?q=x").text
    [link] = [address for address in links(page).values() if address.startswith("/document")]
    whole = rig.get(link).text
    assert "first\nsecond" in whole
    assert shelf.calls == [("document", "a/b?c", None)]


def test_a_document_is_audited_with_its_number(make_page: MakePage, tmp_path: Path) -> None:
    access, keys = stored_keys(tmp_path / "keys.json")
    shelf = Shelf()
    shelf.documents["a"] = WholeDocument("a", "text", "2026-11-22T00:00:00Z", {})
    rig = make_page(documents=shelf, access=access)
    with structlog.testing.capture_logs() as lines:
        rig.get("/document?id=a", headers={"authorization": f"Bearer {keys['acme']}"})
    audit = [line for line in lines if line["event"] == "query.audit"]
    assert [(line["route"], line["results"]) for line in audit] == [("/document", 1)]


def test_texts_are_marked_beside_the_event_loop(make_page: MakePage, library: Library) -> None:
    library.put("a", 0)
    threads = []

    def marking(query: str, content: str) -> list[tuple[int, int]]:
        threads.append(threading.current_thread())
        return marks(query, content)

    assert make_page(marks=marking).get("/?q=chunk").status_code == 200
    assert threads
    assert threading.main_thread() not in threads


def test_the_strip_counts_no_records_for_a_tenant(make_page: MakePage, tmp_path: Path) -> None:
    access, keys = stored_keys(tmp_path / "keys.json")
    rig = make_page(freshness=Shelf(), access=access)
    for path in ("/", "/freshness"):
        of = {name: text(rig.get(path, headers={"authorization": f"Bearer {key}"}).text) for name, key in keys.items()}
        assert "1,234 records wait" in of["reader"]
        assert "searchable up to" in of["acme"]
        assert "wait" not in of["acme"]


def test_freshness_is_a_strip_and_a_fragment(make_page: MakePage) -> None:
    rig = make_page(freshness=Shelf())
    assert "1,234 records wait" in text(rig.get("/").text)
    fragment = rig.get("/freshness").text
    assert "1,234 records wait" in text(fragment)
    assert "<html" not in fragment


def test_the_pipeline_shows_lag_and_dead_letters(make_page: MakePage) -> None:
    page = text(make_page(pipeline=pipeline_state).get("/pipeline").text)
    for part in ("140 records wait", "12.5 records a second", "documents 0 900 1,000 100", "not_json 2"):
        assert part in page


def test_an_empty_pipeline_is_no_error(make_page: MakePage) -> None:
    sample = DeadLetterSample("t", 0, 0, "", "", "\x00\ud800".encode(errors="replace").decode())
    page = make_page(pipeline=lambda: PipelineState(samples=[sample])).get("/pipeline")
    assert page.status_code == 200
    assert "None." in text(page.text)


def test_similar_documents_are_those_that_the_form_allows(make_page: MakePage, library: Library) -> None:
    library.put("a", 0.0, lang="en")
    library.put("b", 10.0, "2026-11-20", lang="en")
    library.put("c", 20.0, lang="en")
    library.put("d", 30.0, lang="de")
    rig = make_page(finds_similar=True)

    def found(address: str) -> list[str]:
        return [one for one in ("a", "b", "c", "d") if f"chunk 0 of {one}" in text(rig.get(address).text)]

    assert found("/?similar=a") == ["b", "c", "d"]
    assert found("/?similar=a&where=lang=en&from=2026-11-21") == ["c"]
    assert rig.get("/?similar=missing").status_code == 404


def test_similar_documents_are_logged_as_a_search(make_page: MakePage, library: Library) -> None:
    library.put("a", 0.0)
    library.put("b", 10.0)
    rig = make_page(finds_similar=True)
    with structlog.testing.capture_logs() as logs:
        rig.get("/?similar=a")
    assert [line["results"] for line in logs if line["event"] == "search.answered"] == [1]


@pytest.mark.parametrize("condition", ["lang?", "tags~=x"])
def test_every_condition_of_an_address_is_shown(make_page: MakePage, library: Library, condition: str) -> None:
    library.put("a", 0.0, lang="en", tags=["x"])
    response = make_page().get("/", params={"q": "chunk", "where": condition})
    assert response.status_code == 200
    shown = text(response.text)
    assert "chunk 0 of a" in shown
    assert ("exists" in shown) == condition.endswith("?")


def test_a_document_of_the_page_is_counted_in_the_audit_log(make_page: MakePage) -> None:
    shelf = Shelf()
    shelf.documents["a"] = WholeDocument("a", "text", "2026-11-22T00:00:00Z", {})
    rig = make_page(documents=shelf, access=Access(audit_text=True))
    with structlog.testing.capture_logs() as lines:
        rig.get("/document?id=a")
        rig.get("/document?id=missing")
    audit = [line for line in lines if line["event"] == "query.audit"]
    assert [(line["status"], line.get("results")) for line in audit] == [(200, 1), (404, None)]
