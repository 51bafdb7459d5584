"""Facets of a search: which rows are read, how many, and what happens where Milvus does not answer."""

from typing import Any

import numpy as np
import pytest

from pipeline.errors import NotFound, NotLoaded, RequestRefused, RequestTooLarge, Unavailable
from pipeline.query import InvalidRequest, Searcher, parse_request
from pipeline.query import facets as facets_module
from pipeline.query.facet_counts import Facets
from pipeline.query.tenancy import ForeignRow
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, DOCUMENTS, EAST, Clock, Library, eq, find


@pytest.fixture
def filled(library: Library) -> Library:
    for number in range(6):
        day = f"2026-11-2{number % 2}"
        for chunk in range(2):
            lang = "en" if number < 4 else "de"
            library.put(f"doc {number}", 10.0 * number, day, chunk=chunk, lang=lang, n=number, tags=["x", number])
    return library


def facets(searcher: Searcher, names: list[str], **body: Any) -> Facets:
    found = find(searcher, facets=names, **body)
    assert found.warnings == ()
    assert found.facets is not None
    return found.facets


def counted(found: Facets) -> dict[str, dict[object, int]]:
    return {facet.name: {one.value: one.count for one in facet.values} for facet in found.fields}


def test_values_of_all_rows_that_match_whatever_the_limit(searcher: Searcher, filled: Library) -> None:
    found = facets(searcher, ["lang", "none", "tags"], limit=1)
    assert counted(found)["lang"] == {"en": 4, "de": 2}
    assert counted(found)["none"] == {}
    assert counted(found)["tags"]["x"] == 6
    assert [facet.name for facet in found.fields] == ["lang", "none", "tags"]
    assert (found.sampled, found.rows_read, found.rows) == (False, 12, 12)
    assert counted(facets(searcher, ["lang"], group_by=None)) == {"lang": {"en": 8, "de": 4}}


def test_the_filter_and_the_time_range_hold(searcher: Searcher, filled: Library) -> None:
    found = facets(searcher, ["n"], filter=eq("lang", "en"), time={"from": "2026-11-21"})
    assert counted(found) == {"n": {1: 1, 3: 1}}
    assert found.rows_read == 4


def test_a_list_of_texts_has_one_count(searcher: Searcher, filled: Library) -> None:
    found = find(searcher, np.repeat(EAST, 2, axis=0), query=["a", "b"], facets=["lang"])
    assert found.facets is not None
    assert counted(found.facets) == {"lang": {"en": 4, "de": 2}}


def test_a_declared_field_is_counted_too(searcher: Searcher, filled: Library) -> None:
    assert counted(facets(searcher, ["kafka_topic", "chunk"], group_by=None)) == {
        "kafka_topic": {"topic": 12},
        "chunk": {0: 6, 1: 6},
    }


@pytest.mark.parametrize("name", ["vector", "text"])
def test_what_cannot_be_counted_is_refused(searcher: Searcher, filled: Library, name: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        find(searcher, facets=["lang", name])
    assert refusal.value.at == "/facets/1"


@pytest.mark.parametrize(("value", "at"), [([], ""), (["a"] * 6, ""), ("lang", ""), ([""], "/0"), ([1], "/0")])
def test_the_names_are_checked(searcher: Searcher, value: object, at: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        find(searcher, facets=value)
    assert refusal.value.at == f"/facets{at}"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facets_module, "FIRST_ROWS", 3)
    monkeypatch.setattr(facets_module, "MAX_ROWS", 5)


@pytest.mark.usefixtures("small", "filled")
def test_a_bounded_number_of_rows_is_read(searcher: Searcher, milvus: FakeMilvus) -> None:
    found = facets(searcher, ["lang"])
    assert (found.sampled, found.rows_read, found.rows) == (True, 5, 12)
    assert reads(milvus) == 3  # the first rows, the others, and how many there are


@pytest.mark.usefixtures("small", "filled")
def test_where_rows_are_large_fewer_are_read(
    searcher: Searcher, milvus: FakeMilvus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facets_module, "MAX_BYTES", 1_000)
    rows_read = facets(searcher, ["lang"]).rows_read
    assert 3 < rows_read <= 5
    monkeypatch.setattr(facets_module, "MAX_BYTES", 100)
    found = facets(searcher, ["lang"])
    assert (found.sampled, found.rows_read, found.rows) == (True, 3, 12)


@pytest.mark.usefixtures("small", "filled")
@pytest.mark.parametrize("error", [RequestTooLarge("64 MiB"), Unavailable("no time")])
def test_rows_that_milvus_cannot_answer_in_time_or_at_once_are_sampled(
    searcher: Searcher, milvus: FakeMilvus, error: Exception
) -> None:
    fail_read(milvus, 2, error)
    found = facets(searcher, ["lang"])
    assert (found.sampled, found.rows_read, found.rows) == (True, 3, 12)


@pytest.mark.usefixtures("filled")
def test_exactly_as_many_rows_as_may_be_read_are_no_sample(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facets_module, "FIRST_ROWS", 3)
    monkeypatch.setattr(facets_module, "MAX_ROWS", 12)
    found = facets(searcher, ["lang"])
    assert (found.sampled, found.rows_read, found.rows) == (False, 12, 12)


def reads(milvus: FakeMilvus) -> int:
    return sum(operation == "query" for operation, _, _ in milvus.calls)


def fail_read(milvus: FakeMilvus, number: int, error: Exception) -> None:
    """Let the `number`th query fail."""
    seen = 0

    def fail(operation: str, _collection: str, when: str) -> None:
        nonlocal seen
        seen += operation == "query" and when == "before"
        if operation == "query" and when == "before" and seen == number:
            raise error

    milvus.hook = fail


ERRORS = [
    Unavailable("away"),
    NotFound("gone"),
    NotLoaded("released"),
    RequestRefused("no"),
    RequestTooLarge("1"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_facets_that_fail_are_a_warning_and_not_the_end_of_the_search(
    searcher: Searcher, filled: Library, milvus: FakeMilvus, error: Exception
) -> None:
    milvus.fail_next("query", error)
    found = find(searcher, facets=["lang"])
    assert len(found.results[0]) == 6
    assert found.facets is None
    assert found.warnings == ("the facets were not counted: Milvus did not answer that read in the time of the search",)
    assert not found.partial


@pytest.mark.usefixtures("small", "filled")
def test_a_total_that_is_not_known_is_null(searcher: Searcher, milvus: FakeMilvus) -> None:
    fail_read(milvus, 3, Unavailable("no time"))
    found = facets(searcher, ["lang"])
    assert (found.sampled, found.rows_read, found.rows) == (True, 5, None)


class TimedMilvus(FakeMilvus):
    """Notes the time that each query is given."""

    timeouts: list[float | None]

    def query(self, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        self.timeouts.append(options.get("timeout"))
        return super().query(*arguments, **options)


def test_facets_have_half_of_the_time_that_is_left(clock: Clock) -> None:
    api = TimedMilvus()
    api.timeouts = []
    api.create_collection(DOCUMENTS)
    Library(api).put("a", 0.0, lang="en")
    find(Searcher(api, COLLECTION, None, clock), facets=["lang"], timeout_s=4.0)
    assert api.timeouts == [2.0]


def test_a_row_of_another_tenant_ends_the_search(
    searcher: Searcher, library: Library, milvus: FakeMilvus, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.put("a", 0.0, tenant="x", lang="en")
    request = parse_request({"query": "q", "facets": ["lang"]})
    found = searcher.search(request, EAST, 5.0, now_ms=0, tenant="x")
    assert found.facets is not None
    assert counted(found.facets) == {"lang": {"en": 1}}
    library.put("b", 90.0, tenant="y", lang="de")
    found = searcher.search(request, EAST, 5.0, now_ms=0, tenant="x")
    assert found.facets is not None
    assert counted(found.facets) == {"lang": {"en": 1}}
    everything = FakeMilvus.query

    def unfiltered(api: FakeMilvus, collection: str, _: str, *arguments: Any, **options: Any) -> list[dict[str, Any]]:
        return everything(api, collection, "", *arguments, **options)

    monkeypatch.setattr(FakeMilvus, "query", unfiltered)
    with pytest.raises(ForeignRow):
        searcher.search(request, EAST, 5.0, now_ms=0, tenant="x")


def test_a_search_without_facets_reads_nothing_for_them(
    searcher: Searcher, filled: Library, milvus: FakeMilvus
) -> None:
    assert find(searcher).facets is None
    assert "query" not in [operation for operation, _, _ in milvus.calls]


def test_the_rows_of_a_strong_search_are_counted_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facets_module, "FIRST_ROWS", 2)
    monkeypatch.setattr(facets_module, "MAX_ROWS", 2)
    stale = FakeMilvus(staleness_writes=1)
    stale.create_collection(DOCUMENTS)
    library = Library(stale)
    for number in range(3):
        library.put(f"doc {number}", 0.0, lang="en")
    found = facets(Searcher(stale, COLLECTION), ["lang"], freshness={"level": "strong"})
    assert (found.sampled, found.rows_read, found.rows) == (True, 2, 3)


def test_the_time_of_facets_is_a_phase_of_its_own(searcher: Searcher, filled: Library) -> None:
    found = find(searcher, facets=["lang"], explain=True, count=True)
    assert found.explanation is not None
    assert list(found.explanation.phases_ms)[-2:] == ["facets", "count"]
