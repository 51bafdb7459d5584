"""The page in Chromium: with and without scripts, by keyboard, with hostile texts, and by axe-core's rules."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from consumers.query.web.ports import WholeDocument
from tests.browser.chromium import chromium, served
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.page import HOSTILE, PageRig, Shelf, keys, marks, pipeline_state
from tests.support.rigs.search import COLLECTION, DOCUMENTS, Library

LANGUAGES = ("en", "de", "fr")
PAGES = (
    "/",
    "/?q=chunk&scores=1",
    "/?q=chunk&where=lang=en&from=2026-11-05",
    "/?q=x&last=soon",
    "/document?id=document-01",
    "/partitions",
    "/pipeline",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shelf() -> Shelf:
    shelf = Shelf()
    for number in range(24):
        doc_id = f"document-{number:02}"
        shelf.documents[doc_id] = WholeDocument(doc_id, f"all of {doc_id}", "2026-11-22T09:30:00Z", {"lang": "en"})
    return shelf


@pytest.fixture(scope="module")
def milvus() -> FakeMilvus:
    """24 documents over 24 days, the last one not loaded; texts, names and values are hostile."""
    milvus = FakeMilvus()
    milvus.create_collection(DOCUMENTS)
    library = Library(milvus)
    for number in range(24):
        metadata: dict[str, Any] = {"lang": LANGUAGES[number % 3], "priority": number, f"k{HOSTILE}": HOSTILE}
        metadata["title"] = f"Title {number:02} {HOSTILE}"
        library.put(f"document-{number:02}", number, f"2026-11-{number + 1:02}", **metadata)
    milvus.release_partitions(COLLECTION, ["d20261124"])
    return milvus


@pytest.fixture(scope="module")
def address(milvus: FakeMilvus, shelf: Shelf) -> Iterator[str]:
    rig = PageRig(milvus, documents=shelf, freshness=shelf, marks=marks, pipeline=pipeline_state)
    with served(rig.app) as address:
        yield address
    rig.close()


@pytest.fixture(scope="module")
def locked(milvus: FakeMilvus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The same behind keys: the address, and the key of an operator."""
    access, texts = keys(tmp_path_factory.mktemp("keys") / "keys.json")
    rig = PageRig(milvus, access=access)
    with served(rig.app) as address:
        yield address, texts["operator"]
    rig.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens an address; at the end no page may have broken its policy, failed, or loaded anything from elsewhere."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []
    elsewhere: list[str] = []

    def open_(address: str, path: str = "/", **options: Any) -> Page:
        contexts.append(browser.new_context(base_url=address, **options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("console", lambda line: complaints.extend([line.text] if "Security Policy" in line.text else []))
        page.on("request", lambda request: elsewhere.extend([request.url][request.url.startswith(address) :]))
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
    assert elsewhere == []


def titles(page: Page) -> list[str]:
    return [text.split(" <")[0] for text in page.locator(".card h3").all_inner_texts()]


def search(page: Page, text: str) -> None:
    page.get_by_label("Search for").fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".card").first).to_be_visible()


@pytest.mark.parametrize("scripts", [True, False])
def test_search_filter_and_pages(open_page: Callable[..., Page], address: str, scripts: bool) -> None:
    page = open_page(address, java_script_enabled=scripts)
    if scripts:
        page.evaluate("window.loadedOnce = true")
    search(page, "chunk")
    assert titles(page) == [f"Title {number:02}" for number in range(10)]
    assert page.url == f"{address}/?q=chunk"
    assert page.locator("mark").first.inner_text() == "chunk"

    page.get_by_label("Field").fill("lang")
    page.get_by_label("Value").fill("de")
    page.get_by_role("button", name="Add").click()
    expect(page.locator(".chips")).to_contain_text("lang is de")
    assert titles(page) == [f"Title {number:02}" for number in range(1, 24, 3)]
    assert page.url == f"{address}/?q=chunk&where=lang%3Dde"
    page.get_by_role("link", name="Remove: lang is de").click()
    expect(page.locator(".chips")).to_have_count(0)

    page.get_by_role("link", name="Further results").click()
    expect(page.locator(".count")).to_contain_text("Results 11 to 20")
    assert titles(page)[0] == "Title 10"
    expect(page.locator(".count")).to_be_focused()
    page.go_back()
    expect(page.locator(".card h3").first).to_contain_text("Title 00")
    if scripts:
        page.goto("/?q=chunk")
        page.evaluate("window.loadedOnce = true")
        page.get_by_role("link", name="Further results").click()
        expect(page.locator(".count")).to_contain_text("Results 11 to 20")
        assert page.evaluate("window.loadedOnce") is True
        assert page.title().startswith("chunk")


def test_a_time_range_by_a_bar_and_by_the_form(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address, "/?q=chunk")
    page.locator("svg a", has_text="d20261103").click()
    expect(page.locator(".count")).to_contain_text("1 result")
    assert titles(page) == ["Title 02"]
    expect(page.get_by_label("From", exact=True)).to_have_value("2026-11-03T00:00:00Z")
    expect(page.get_by_label("Time")).to_have_value("custom")
    assert page.locator(".bar.skipped").count() > 20
    page.get_by_label("Time").select_option("24h")
    page.get_by_label("From", exact=True).fill("2026-11-20")
    page.get_by_label("Before").fill("")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".count")).to_contain_text("4 results")
    page.get_by_label("Time").select_option("1h")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".found")).to_contain_text("No document fits with these conditions")


def test_hostile_texts_do_nothing(open_page: Callable[..., Page], address: str) -> None:
    for path in ("/?q=chunk&scores=1", "/pipeline", "/document?id=document-01"):
        page = open_page(address, path)
        assert "taken" not in page.title()
        assert page.locator("main script, main img, [onerror], main [style]").count() == 0
    page = open_page(address)
    search(page, HOSTILE)
    assert page.get_by_label("Search for").input_value() == HOSTILE
    assert page.title().startswith("<script>")


def test_the_live_region_says_what_was_found(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address)
    status = page.get_by_role("status")
    expect(status).to_have_text("")
    node = status.element_handle()
    search(page, "chunk")
    expect(status).to_contain_text("10 results by meaning")
    assert status.evaluate("(now, before) => now === before", node), "a new element is not announced"
    page.get_by_label("Mode").select_option("keyword")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("alert")).to_contain_text("needs a keyword index")
    expect(page.get_by_label("Mode")).to_have_attribute("aria-invalid", "true")


def test_a_whole_document_on_demand(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address, "/?q=chunk")
    page.get_by_role("link", name="Whole document").nth(2).click()
    expect(page.locator("#whole3")).to_contain_text("all of document-02")
    assert page.url == f"{address}/?q=chunk"
    without = open_page(address, "/?q=chunk", java_script_enabled=False)
    without.get_by_role("link", name="Whole document").nth(2).click()
    expect(without.locator("#document")).to_contain_text("all of document-02")


def test_everything_can_be_reached_by_keyboard(open_page: Callable[..., Page], address: str) -> None:
    page = open_page(address, "/?q=chunk")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => e === document.body ? 'end|solid' :"
                " `${e.id || e.textContent.trim().slice(0, 20)}|${getComputedStyle(e).outlineStyle}`)"
                "(document.activeElement)"
            )
        )
    assert [name for name in reached if not name.endswith("|solid")] == []
    names = [name.partition("|")[0] for name in reached]
    for name in ("q", "Search", "mode", "last", "recency", "key", "op", "value", "Add"):
        assert name in names


def test_a_key_is_entered_kept_and_forgotten(open_page: Callable[..., Page], locked: tuple[str, str]) -> None:
    address, key = locked
    page = open_page(address, "/?q=chunk")
    page.get_by_label("Key for searches").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("opens nothing")
    page.get_by_label("Key for searches").fill(key)
    page.keyboard.press("Enter")
    expect(page.locator(".card").first).to_be_visible()
    assert page.url == f"{address}/?q=chunk"
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("link", name="Partitions").click()
    expect(page.locator("table")).to_contain_text("d20261101")
    page.get_by_role("link", name="Key").click()
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_label("Key for searches")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280, 3840])
def test_axe_finds_nothing_serious(open_page: Callable[..., Page], address: str, scheme: str, width: int) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    problems = []
    for path in PAGES:
        page = open_page(address, path, **options)
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical", "moderate"):
                where = [node["html"][:120] for node in violation["nodes"][:3]]
                problems.append(f"{path}: {violation['id']}: {violation['help']}: {where}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    assert problems == []


def test_axe_on_the_key_form(open_page: Callable[..., Page], locked: tuple[str, str]) -> None:
    page = open_page(locked[0], color_scheme="dark")
    assert [violation["id"] for violation in Axe().run(page).response["violations"]] == []


def test_no_motion_where_none_is_wanted(open_page: Callable[..., Page], address: str) -> None:
    duration = "getComputedStyle(document.querySelector('.cards')).transitionDuration"
    still = open_page(address, "/?q=chunk", reduced_motion="reduce")
    assert re.fullmatch(r"0s(, 0s)*", still.evaluate(duration))
    assert open_page(address, "/?q=chunk", reduced_motion="no-preference").evaluate(duration) != "0s"
