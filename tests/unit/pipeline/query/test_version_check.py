"""The check against the ledger: what a filter, a time range or a better match would show of an older version."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import NotLoaded, RequestRefused, Unavailable
from pipeline.query import Searcher, SearchResult
from pipeline.query.version_check import Age, version_age
from pipeline.records import Position
from pipeline.store import NOWHERE, CollectionInfo, Entry, entry_row, row_version
from tests.support.fakes.milvus import FakeMilvus
from tests.support.log_text import LogText
from tests.support.rigs.search import COLLECTION, DOCUMENTS, EAST, LEDGER, Clock, Library, doc_ids, entry, eq, find

STORED = entry("a", 7)
UNCHECKED = "the ledger could not be read"


@pytest.mark.parametrize(
    ("at", "stored", "expected"),
    [
        (Position("topic", 0, 7), None, "current"),
        (Position("topic", 0, 7), STORED, "current"),
        (Position("topic", 0, 6), STORED, "older"),
        # Rows and ledger are read one after the other, so the ledger may be behind.
        (Position("topic", 0, 8), STORED, "current"),
        # A newer record of the same content has moved the entry: the rows keep the position of their own.
        (Position("topic", 0, 4), STORED._replace(written_at=Position("topic", 0, 4)), "current"),
        (Position("topic", 0, 3), STORED._replace(written_at=Position("topic", 0, 4)), "older"),
        (Position("topic", 0, 6), STORED._replace(state="deleted", footprint={}), "older"),
        (Position("topic", 0, 8), STORED._replace(state="deleted", footprint={}), "current"),
        # While a document is changed both versions may be there, and after a crash a third one.
        (Position("topic", 0, 6), STORED._replace(pending=True), "unknown"),
        (Position("topic", 0, 7), STORED._replace(pending=True), "unknown"),
        (Position("topic", 0, 8), STORED._replace(pending=True), "unknown"),
        (Position("topic", 0, 1), STORED._replace(position=NOWHERE, pending=True), "unknown"),
        # Offsets decide within one log and without versions only.
        (Position("topic", 1, 9), STORED, "unknown"),
        (Position("other", 0, 1), STORED, "unknown"),
        (Position("topic", 0, 8), STORED._replace(version=3, versioned=True), "unknown"),
        (Position("topic", 0, 6), STORED._replace(version=3, versioned=True), "older"),
    ],
)
def test_the_age_of_a_row(at: Position, stored: Entry | None, expected: Age) -> None:
    assert version_age(at, None if stored is None else row_version(entry_row(stored))) == expected


HIDING: tuple[dict[str, Any], ...] = (
    {"filter": eq("lang", "en")},
    {"time": {"to": "2026-11-22"}},
    {"limit": 1, "group_by": None},
)


def find_in_range(searcher: Searcher, vectors: NDArray[np.float32] = EAST, **body: Any) -> SearchResult:
    """Only what a filter or a time range finds is compared with the ledger."""
    return find(searcher, vectors, **{"time": {"from": "2020-01-01"}, **body})


@pytest.fixture
def changed(library: Library) -> Library:
    """A document that was moved and changed by its record 6, of whose version before a row is left."""
    library.put("a", 1.0, "2026-11-20", offset=5, lang="en")
    library.put("b", 20.0, "2026-11-20", offset=4, lang="en")
    library.put("a", 80.0, "2026-11-22", offset=6, lang="de")
    library.enter("b", 4)
    return library


@pytest.mark.parametrize("body", HIDING)
def test_an_older_version_is_not_shown_though_the_newer_one_is_hidden(
    make_searcher: Callable[..., Searcher], changed: Library, body: dict[str, Any]
) -> None:
    searcher = make_searcher(max_candidates=2)
    changed.enter("a", 6)
    found = find_in_range(searcher, **body)
    assert doc_ids(found) == ["b"]
    assert found.warnings == ()


@pytest.mark.parametrize("body", HIDING)
def test_a_document_that_is_being_changed_is_shown_with_a_warning(
    make_searcher: Callable[..., Searcher], changed: Library, body: dict[str, Any]
) -> None:
    changed.enter("a", 5, pending=True)
    found = find_in_range(make_searcher(max_candidates=2), **body)
    assert doc_ids(found)[0] == "a"
    (warning,) = found.warnings
    assert "may be shown in an older version" in warning
    assert warning.endswith(": 'a'")


def test_a_warning_names_only_documents_of_the_answer(searcher: Searcher, changed: Library) -> None:
    changed.enter("b", 4, pending=True)
    changed.enter("a", 5)
    assert find_in_range(searcher, limit=1, filter=eq("lang", "en")).warnings == ()


def test_a_warning_is_short(searcher: Searcher, library: Library) -> None:
    for number in range(10):
        library.put(f"doc {number}", number)
        library.enter(f"doc {number}", 1, pending=True)
    (warning,) = find_in_range(searcher, EAST.repeat(2, 0), query=["q", "r"]).warnings
    assert warning.startswith("10 documents ")
    assert warning.endswith(": 'doc 0', 'doc 1', 'doc 2' and 7 more")


def test_in_append_mode_every_record_stays(
    make_searcher: Callable[..., Searcher], changed: Library, milvus: FakeMilvus
) -> None:
    changed.enter("a", 6)
    milvus.calls.clear()
    assert doc_ids(find_in_range(make_searcher(one_version=False), filter=eq("lang", "en"))) == ["a", "b"]
    assert lookups(milvus) == 0


def test_what_is_dropped_is_replaced_by_the_next_best(searcher: Searcher, library: Library) -> None:
    for number in range(12):
        library.put(f"doc {number:02}", number)
        library.enter(f"doc {number:02}", 2 if number < 8 else 1)
    assert doc_ids(find_in_range(searcher, limit=4)) == ["doc 08", "doc 09", "doc 10", "doc 11"]


def test_one_read_of_the_ledger_for_all_texts(searcher: Searcher, changed: Library, milvus: FakeMilvus) -> None:
    changed.enter("a", 6)
    milvus.calls.clear()
    found = find_in_range(searcher, EAST.repeat(2, 0), query=["q", "r"], filter=eq("lang", "en"))
    assert [doc_ids(found, query) for query in (0, 1)] == [["b"], ["b"]]
    assert lookups(milvus) == 1


def test_nothing_is_read_for_no_hits(searcher: Searcher, changed: Library, milvus: FakeMilvus) -> None:
    milvus.calls.clear()
    assert doc_ids(find_in_range(searcher, time={"from": "2027-01-01"})) == []
    assert lookups(milvus) == 0


def test_tenants_have_ledger_rows_of_their_own(searcher: Searcher, library: Library) -> None:
    library.put("a", 1.0, offset=5, tenant="one")
    library.put("a", 2.0, offset=5, tenant="two")
    library.enter("a", 6, tenant="one")
    library.enter("a", 5, tenant="two")
    assert [result.metadata["tenant"] for result in find_in_range(searcher).results[0]] == ["two"]


def test_rows_of_another_program_with_a_tenant_that_is_no_text(searcher: Searcher, library: Library) -> None:
    library.put("a", 1.0, tenant=5)
    library.enter("b", 1)
    assert doc_ids(find_in_range(searcher)) == ["a"]


def test_many_documents_are_read_in_pages(
    make_searcher: Callable[..., Searcher], library: Library, milvus: FakeMilvus
) -> None:
    for number in range(1, 1206):
        library.put(f"doc {number}", number / 100, offset=1)
    library.enter("doc 1204", 2)
    milvus.calls.clear()
    found = find_in_range(make_searcher(), limit=1_000, fields=[])
    assert len(doc_ids(found)) == 1_000
    assert lookups(milvus) == 2


def lookups(milvus: FakeMilvus) -> int:
    return sum((operation, collection) == ("query", LEDGER) for operation, collection, _ in milvus.calls)


@pytest.mark.parametrize("error", [Unavailable("away"), NotLoaded("released"), RequestRefused("no")])
def test_a_ledger_that_cannot_be_read_fails_no_search(
    searcher: Searcher, changed: Library, clock: Clock, error: Exception, log_text: LogText
) -> None:
    text = log_text("json")
    changed.enter("a", 6)
    changed.api.fail_next("query", error, collection=LEDGER)
    for _ in range(2):  # the ledger is not read again for a while
        found = find_in_range(searcher, filter=eq("lang", "en"))
        assert doc_ids(found) == ["a", "b"]
        assert not found.partial
        assert [UNCHECKED in warning for warning in found.warnings] == [True]
    assert text.getvalue().count("query.versions_unchecked") == 1
    clock.now += 5
    assert doc_ids(find_in_range(searcher, filter=eq("lang", "en"))) == ["b"]


def test_a_search_in_a_hurry_suspends_nothing(
    searcher: Searcher, changed: Library, milvus: FakeMilvus, clock: Clock
) -> None:
    changed.enter("a", 6)
    milvus.fail_next("query", Unavailable("too late"), collection=LEDGER)
    assert UNCHECKED in find_in_range(searcher, timeout_s=0.1, filter=eq("lang", "en")).warnings[0]
    assert doc_ids(find_in_range(searcher, filter=eq("lang", "en"))) == ["b"]


def test_a_collection_without_a_ledger(
    searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock, log_text: LogText
) -> None:
    text = log_text("json")
    library.put("a", 1.0, offset=5)
    found: list[SearchResult] = []
    for _ in range(3):
        found.append(find_in_range(searcher))
        clock.now += 5
    assert [(doc_ids(one), one.warnings) for one in found] == [(["a"], ())] * 3
    assert text.getvalue().count("query.no_ledger") == 1
    assert lookups(milvus) == 3
    library.enter("a", 6)
    assert doc_ids(find_in_range(searcher)) == []


class AliasedMilvus(FakeMilvus):
    """Has the collection under an alias, too."""

    def describe(self, collection: str) -> CollectionInfo | None:
        return super().describe(_unaliased(collection))

    def partitions(self, collection: str) -> list[str]:
        return super().partitions(_unaliased(collection))

    def loaded_partitions(self, collection: str) -> list[str]:
        return super().loaded_partitions(_unaliased(collection))


def _unaliased(name: str) -> str:
    return COLLECTION if name == "alias" else name


def test_the_ledger_of_an_alias_is_that_of_its_collection() -> None:
    milvus = AliasedMilvus()
    milvus.create_collection(DOCUMENTS)
    library = Library(milvus)
    library.put("a", 1.0, offset=5)
    library.enter("a", 6)
    assert doc_ids(find_in_range(Searcher(milvus, "alias"))) == []


def test_a_least_score_does_not_let_an_older_version_through(searcher: Searcher, library: Library) -> None:
    library.put("a", 0.0, offset=1)
    library.put("a", 80.0, offset=2)
    library.put("b", 10.0)
    library.enter("a", 2)
    assert doc_ids(find(searcher, min_score=0.5)) == ["b"]
    assert doc_ids(find(searcher)) == ["b", "a"]
