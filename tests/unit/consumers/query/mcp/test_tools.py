"""The tools for language models: what they find, what they refuse, and how large an answer can be."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest
import structlog
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from consumers.query.access.audit import AuditEntry
from consumers.query.access.caller import Caller, admit
from consumers.query.admission import Admission
from consumers.query.mcp.sources import StoredDocuments
from consumers.query.mcp.tools import MAX_ANSWER_BYTES, DocumentSource, FetchedDocument, Tools
from consumers.query.searches import Searches
from pipeline.embedding import HashEmbedder
from pipeline.errors import NotFound
from pipeline.query import (
    DirectEmbedder,
    DocumentService,
    FreshnessWatch,
    InvalidRequest,
    NoSuchDocument,
    Overloaded,
    Searcher,
    SearchService,
)
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.fakes.offsets import FakeOffsets
from tests.support.rigs.search import COLLECTION, Library


class Documents(DocumentSource):
    """Documents by their ids."""

    def __init__(self) -> None:
        self.stored: dict[str, FetchedDocument] = {}

    async def fetch(self, doc_id: str, tenant: str | None, request: Request | None) -> FetchedDocument:
        if doc_id not in self.stored:
            raise NotFound("no such document")
        return self.stored[doc_id]


@pytest.fixture
def admission() -> Admission:
    return Admission(1)


@pytest.fixture
def searches(milvus: FakeMilvus, admission: Admission) -> Iterator[Searches]:
    embedder = DirectEmbedder(HashEmbedder("hash:2").embed_queries)
    with closing(SearchService(Searcher(milvus, COLLECTION), embedder, QueryMetrics(CollectorRegistry()))) as service:
        yield Searches(service, admission, local=True)


@pytest.fixture
def tools(searches: Searches) -> Tools:
    return Tools(searches)


def call(tools: Tools, name: str, /, **arguments: Any) -> dict[str, Any]:
    return asyncio.run(tools.call(name, arguments))


@pytest.mark.parametrize(("name", "arguments"), [("search", {"query": "q"}), ("describe", {})])
def test_a_call_that_has_lost_its_request_sees_nothing(
    searches: Searches, admission: Admission, name: str, arguments: dict[str, Any]
) -> None:
    over_http = Tools(Searches(searches.service, admission))
    with pytest.raises(RuntimeError, match="request"):
        asyncio.run(over_http.call(name, arguments))


def test_a_search_gives_the_best_chunk_of_each_document(tools: Tools, library: Library) -> None:
    library.put("a", 0.0, title="A", url="http://wiki/a", n=1)
    library.put("b", 180.0)
    answer = call(tools, "search", query="q")
    shown = {one["id"]: one for one in answer.pop("results")}
    assert answer == {"left_out": 0, "partial": False, "mode": "dense", "warnings": []}
    assert set(shown) == {"a", "b"}
    assert (shown["a"]["title"], shown["a"]["url"]) == ("A", "http://wiki/a")
    assert (shown["b"]["title"], shown["b"]["url"], shown["b"]["metadata"]) == ("b", None, {})
    assert shown["b"]["event_time"] == "2026-11-22T00:00:00Z"
    assert shown["b"]["source"] == {"topic": "topic", "partition": 0, "offset": 1}
    assert shown["b"]["text"] == "chunk 0 of b"
    assert shown["b"]["text_cut"] is False


def test_a_search_takes_time_filter_and_fields(tools: Tools, library: Library) -> None:
    library.put("old", 0.0, "2026-11-01", lang="en", n=1)
    library.put("en", 0.0, lang="en", n=1)
    library.put("de", 0.0, lang="de", n=1)
    answer = call(
        tools,
        "search",
        query="q",
        time={"from": "2026-11-20"},
        filter={"type": "eq", "key": "lang", "value": "en"},
        fields=["n"],
        mode=None,
    )
    assert [(one["id"], one["metadata"]) for one in answer["results"]] == [("en", {"n": 1})]


@pytest.mark.parametrize(
    ("arguments", "at"),
    [
        ({}, "/query"),
        ({"query": ["a", "b"]}, "/query"),
        ({"query": " "}, "/query"),
        ({"query": "q", "limit": 21}, "/limit"),
        ({"query": "q", "limit": 0}, "/limit"),
        ({"query": "q", "limit": True}, "/limit"),
        ({"query": "q", "mode": "keyword"}, "/mode"),
        ({"query": "q", "filter": "lang = en"}, "/filter"),
        ({"query": "q", "timeout_ms": 60_000}, ""),
        ({"query": "q", "tenant": "other"}, ""),
    ],
)
def test_what_a_search_refuses(tools: Tools, library: Library, arguments: dict[str, Any], at: str) -> None:
    library.put("a", 0.0)
    with pytest.raises(InvalidRequest) as refused:
        call(tools, "search", **arguments)
    assert refused.value.at == at


def test_an_unknown_tool_and_an_absent_service_are_refused(tools: Tools) -> None:
    for name in ("drop", "fetch", "freshness"):
        with pytest.raises(InvalidRequest, match="there are search, describe"):
            call(tools, name)


def test_long_titles_do_not_enlarge_an_answer(tools: Tools, library: Library) -> None:
    for number in range(20):
        library.put(f"d{number}", number * 18.0, title="t" * 5_000, url="http://" + "u" * 900, big="\u202e" * 200)
    answer = call(tools, "search", query="q", limit=20)
    assert len(orjson.dumps(answer)) <= MAX_ANSWER_BYTES
    assert answer["left_out"] == 20 - len(answer["results"]) > 0


def test_metadata_that_does_not_fit_is_left_out_first(tools: Tools, library: Library) -> None:
    for number in range(20):
        library.put(f"e{number}", number * 18.0, big={"x": "\u202e" * 900})
    answer = call(tools, "search", query="q", limit=20)
    assert len(orjson.dumps(answer)) <= MAX_ANSWER_BYTES
    assert answer["left_out"] + len(answer["results"]) == 20
    assert any(one["metadata"] is None for one in answer["results"])


def test_texts_cannot_steer_a_terminal_or_hide(tools: Tools, library: Library) -> None:
    hostile: dict[str, Any] = {"k\u202e": ["v\x00", {"x": "\u200b"}], "title": "T\x07"}
    library.put("a\x1b[2J", 0.0, **hostile)
    (one,) = call(tools, "search", query="q")["results"]
    assert one["id"] == "a\\u001b[2J"
    assert one["title"] == "T\\u0007"
    assert one["metadata"] == {"k\\u202e": ["v\\u0000", {"x": "\\u200b"}], "title": "T\\u0007"}


def test_describe_names_what_a_filter_can_use(tools: Tools, library: Library) -> None:
    library.put("a", 0.0, "2026-11-20", lang="en", n=1, ok=True, tags=["x"], nested={"a": 1}, tenant="t")
    library.put("b", 0.0, "2026-11-22", n="one", none=None)
    answer = call(tools, "describe")
    assert {name["name"]: name["types"] for name in answer.pop("metadata")} == {
        "lang": ["string"],
        "n": ["number", "string"],
        "ok": ["boolean"],
        "tags": ["list"],
        "nested": ["object"],
        "none": ["null"],
    }
    fields = {one["name"]: one["type"] for one in answer.pop("fields")}
    assert fields["event_time"] == "integer"
    assert "vector" not in fields
    assert answer == {
        "collection": COLLECTION,
        "metric": "COSINE",
        "modes": ["dense"],
        "from_time": "2026-11-20T00:00:00Z",
        "to_time": "2026-11-23T00:00:00Z",
    }


def test_names_of_another_tenant_are_not_described(searches: Searches, library: Library) -> None:
    library.put("a", 0.0, tenant="x", secret_x=1)
    library.put("b", 0.0, tenant="y", known_y=1)
    description = asyncio.run(searches.service.describe(tenant="y"))
    assert [one.name for one in description.metadata] == ["known_y"]


def test_a_document_is_fetched_by_its_id(searches: Searches) -> None:
    documents = Documents()
    tools = Tools(searches, documents)
    documents.stored["a"] = FetchedDocument("a", "the text\x00", "2026-11-22T00:00:00Z", {"title": "A"}, ["w"])
    assert call(tools, "fetch", id="a") == {
        "id": "a",
        "title": "A",
        "url": None,
        "text": "the text\\u0000",
        "text_cut": False,
        "event_time": "2026-11-22T00:00:00Z",
        "metadata": {"title": "A"},
        "warnings": ["w"],
    }
    with pytest.raises(NotFound):
        call(tools, "fetch", id="b")
    for wrong in ("", 7, None, "x" * 1_025):
        with pytest.raises(InvalidRequest) as refused:
            call(tools, "fetch", id=wrong)
        assert refused.value.at == "/id"


def test_a_fetched_document_is_bounded(searches: Searches) -> None:
    documents = Documents()
    tools = Tools(searches, documents)
    documents.stored["a"] = FetchedDocument("a", "\u202e" * 100_000, None, {"big": "x" * 100_000})
    answer = call(tools, "fetch", id="a")
    assert len(orjson.dumps(answer)) <= MAX_ANSWER_BYTES
    assert answer["text_cut"] is True
    assert answer["metadata"] is None
    assert answer["text"]
    documents.stored["b"] = FetchedDocument("b", "x", None, {}, ["w" * 100_000])
    with pytest.raises(InvalidRequest):
        call(tools, "fetch", id="b")


@pytest.fixture
def watch(milvus: FakeMilvus) -> Iterator[FreshnessWatch]:
    """Of a group that has three records to process."""
    offsets = FakeOffsets()
    offsets.ends, offsets.commits = {("topic", 0): 10}, {("topic", 0): 7}
    with closing(FreshnessWatch(milvus, COLLECTION, offsets)) as made:
        yield made


def test_freshness_is_that_of_its_service(searches: Searches, watch: FreshnessWatch, library: Library) -> None:
    library.put("a", 0.0)
    answer = call(Tools(searches, freshness=watch), "freshness")
    assert (answer["event_time"], answer["group"], answer["lag"]) == ("2026-11-22T00:00:00Z", "group", 3)
    assert [(one["topic"], one["partition"], one["lag"]) for one in answer["partitions"]] == [("topic", 0, 3)]


def test_a_tenant_learns_how_late_its_documents_are_and_no_more(searches: Searches, watch: FreshnessWatch) -> None:
    request = Request({"type": "http", "method": "POST"})
    admit(request.scope, Caller("x", "x", frozenset({"search"})))
    answer = asyncio.run(Tools(searches, freshness=watch).call("freshness", {}, request))
    assert (answer["event_time"], answer["lag"], answer["partitions"]) == (None, None, None)


def test_a_stored_document_is_fetched_whole(searches: Searches, admission: Admission, library: Library) -> None:
    library.put("a", 0.0, title="A", text="The first half. ")
    library.put("a", 1.0, chunk=1, title="A", text="The second half.")
    tools = Tools(searches, StoredDocuments(DocumentService(searches.service), searches))
    answer = call(tools, "fetch", id="a")
    assert (answer["id"], answer["title"], answer["metadata"]) == ("a", "A", {"title": "A"})
    assert "The first half." in answer["text"]
    assert "The second half." in answer["text"]
    with pytest.raises(NoSuchDocument):
        call(tools, "fetch", id="b")
    with admission.place(), pytest.raises(Overloaded):
        call(tools, "fetch", id="a")
    assert call(tools, "fetch", id="a") == answer


def test_a_document_of_several_tenants_is_fetched_by_its_tenant(
    searches: Searches, admission: Admission, library: Library
) -> None:
    for tenant in ("x", "y"):
        library.put("a", 0.0, tenant=tenant, text=f"the text of {tenant}")
    tools = Tools(searches, StoredDocuments(DocumentService(searches.service), searches))
    with pytest.raises(InvalidRequest) as refused:
        call(tools, "fetch", id="a")
    assert refused.value.at == "/tenant"
    assert call(tools, "fetch", id="a", tenant="y")["text"] == "the text of y"
    with pytest.raises(InvalidRequest):
        call(tools, "fetch", id="a", tenant=7)


def test_calls_hold_places_and_give_them_back(tools: Tools, admission: Admission, library: Library) -> None:
    library.put("a", 0.0)
    with admission.place():
        for name, arguments in (("search", {"query": "q"}), ("describe", {})):
            with pytest.raises(Overloaded):
                call(tools, name, **arguments)
    assert call(tools, "search", query="q")["results"]
    assert call(tools, "describe")["collection"] == COLLECTION


def test_answers_match_their_schemas(searches: Searches, watch: FreshnessWatch, library: Library) -> None:
    library.put("a", 0.0, n=1)
    tools = Tools(searches, Documents(), watch)
    arguments: dict[str, dict[str, Any]] = {"search": {"query": "q"}, "describe": {}, "freshness": {}}
    texts = {text.name: text for text in tools.texts}
    assert set(texts) == {"search", "describe", "fetch", "freshness"}
    for name, given in arguments.items():
        jsonschema.Draft202012Validator(texts[name].input_schema).validate(given)
        jsonschema.Draft202012Validator(texts[name].output_schema).validate(call(tools, name, **given))


def test_a_caller_fetches_documents_of_its_tenant_only(
    searches: Searches, admission: Admission, library: Library
) -> None:
    library.put("a", 0.0, tenant="x", text="the text of x")
    library.put("b", 0.0, tenant="y", text="the text of y")
    request = Request({"type": "http", "method": "POST"})
    admit(request.scope, Caller("x", "x", frozenset({"search"})))
    entry = AuditEntry(request.scope, with_texts=False)
    tools = Tools(searches, StoredDocuments(DocumentService(searches.service), searches))

    def fetch(**arguments: str) -> dict[str, Any]:
        return asyncio.run(tools.call("fetch", arguments, request))

    assert fetch(id="a")["text"] == "the text of x"
    for arguments in ({"id": "b"}, {"id": "b", "tenant": "y"}):
        with pytest.raises(NoSuchDocument):
            fetch(**arguments)
    with structlog.testing.capture_logs() as lines:
        entry.write()
    assert lines[0]["results"] == 1
