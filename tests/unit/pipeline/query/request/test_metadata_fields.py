"""Names in a filter that no row carries: reported, found out with one call, hinted at cheaply."""

from collections.abc import Sequence
from typing import Literal

from pipeline.errors import Unavailable
from pipeline.query import (
    Searcher,
)
from pipeline.query.request.metadata_fields import MetadataNames, likeliest
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import Clock, Library, doc_ids, eq, find, searches


def test_a_field_that_no_row_has_is_reported(
    searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock
) -> None:
    library.put("a", 0.0, language="en")
    assert find(searcher, filter=eq("language")).warnings == ()
    found = find(searcher, filter=eq("langauge"))
    assert found.warnings == (
        "the filter names 'langauge', and no row with such a field was found; did you mean 'language'?",
    )
    before = searches(milvus)
    assert find(searcher, filter=eq("langauge")).warnings == found.warnings
    assert searches(milvus) == before + 1  # the search alone: the name is known to be missing
    library.put("b", 0.0, langauge="x")
    clock.now += 11
    assert find(searcher, filter=eq("langauge")).warnings == ()


def test_all_unknown_names_take_one_call(searcher: Searcher, library: Library, milvus: FakeMilvus) -> None:
    library.put("a", 0.0)
    names = [f"name {number}" for number in range(16)]
    before = searches(milvus)
    found = find(searcher, filter={"type": "or", "filters": [eq(name) for name in names]})
    assert len(found.warnings) == 16
    assert searches(milvus) == before + 1
    assert sum(operation == "query" for operation, _, _ in milvus.calls) == 1


def test_a_name_asked_for_with_one_that_exists_is_reported_by_the_next_search(
    searcher: Searcher, library: Library
) -> None:
    library.put("a", 0.0, language="en")
    both = {"type": "and", "filters": [eq("language"), eq("langauge")]}
    assert find(searcher, filter=both).warnings == ()
    (warning,) = find(searcher, filter=both).warnings
    assert warning.endswith("did you mean 'language'?")


def test_no_name_is_suggested_after_the_deadline(
    searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock
) -> None:
    library.put("a", 0.0, language="en")

    def slow(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        clock.now += 3 * (operation in ("search", "query") and when == "after")

    assert find(searcher).results[0][0].metadata == {"language": "en"}
    milvus.hook = slow
    (warning,) = find(searcher, filter=eq("langauge"), timeout_s=6.0).warnings
    assert warning.endswith("was found")
    (warning,) = find(searcher, filter=eq("langauge"), timeout_s=6.0).warnings
    assert warning.endswith("did you mean 'language'?")


def test_few_names_are_compared_and_the_right_one_is_among_them() -> None:
    names = [f"{letter}{'x' * length}{number}" for letter in "abcdefghij" for length in range(1, 190, 9)
             for number in range(50)]  # fmt: skip
    assert len(names) > 10_000
    assert len(likeliest("language", [*names, "langauge"])) <= 200
    assert "langauge" in likeliest("language", ["l" * 8] * 100 + names + ["langauge"])
    assert likeliest("n" * 200, ["n" * 199] * 10) == []
    assert max(map(len, likeliest("n" * 64, ["n" * 65, "n" * 64, "n" * 63]))) == 64


def test_declared_fields_are_never_reported(searcher: Searcher, library: Library) -> None:
    library.put("a", 0.0)
    assert find(searcher, filter=eq("doc_id", "z")).warnings == ()


def test_an_outage_while_looking_for_a_name_spoils_nothing(
    searcher: Searcher, library: Library, milvus: FakeMilvus
) -> None:
    library.put("a", 0.0)
    expected: Sequence[str] = doc_ids(find(searcher, filter={"type": "ne", "key": "b", "value": 1}))
    calls = 0

    def probe_fails(operation: str, collection: str, when: Literal["before", "after"]) -> None:
        nonlocal calls
        calls += operation in ("search", "query") and when == "before"
        if calls == 2:
            raise Unavailable("gone")

    milvus.hook = probe_fails
    found = find(searcher, filter={"type": "ne", "key": "c", "value": 1})
    assert (doc_ids(found), found.warnings, found.partial) == (expected, (), False)


# --- types ------------------------------------------------------------------------------------------------------


def queries(milvus: FakeMilvus) -> int:
    return sum(operation == "query" for operation, _, _ in milvus.calls)


def test_a_type_that_no_row_has_is_reported(
    searcher: Searcher, library: Library, milvus: FakeMilvus, clock: Clock
) -> None:
    library.put("a", 0.0, priority=2)
    found = find(searcher, filter=eq("priority", "2"))
    assert doc_ids(found) == []
    assert found.warnings == (
        "the filter looks for a text in 'priority', and no row with such a value was found; rows have a number",
    )
    assert find(searcher, filter=eq("priority", 2)).warnings == ()
    before = queries(milvus)
    assert find(searcher, filter=eq("priority", "2")).warnings == found.warnings
    assert find(searcher, filter=eq("priority", "2")).warnings == found.warnings
    assert queries(milvus) == before + 1  # the type is known to be missing for a while
    library.put("b", 0.0, priority="2")
    clock.now += 11
    assert find(searcher, filter=eq("priority", "2")).warnings == ()
    assert find(searcher, filter=eq("priority", True)).warnings == (
        "the filter looks for true or false in 'priority', and no row with such a value was found; rows have a number "
        "or a text",
    )


def test_a_rare_type_is_found_where_the_sample_has_none(searcher: Searcher, library: Library) -> None:
    for number in range(20):
        library.put(f"{number}", 0.0, code=number)
    library.put("rare", 0.0, code="x")
    negated = {"type": "not", "filter": eq("code", "y")}
    find(searcher, filter=eq("code", 1))
    assert find(searcher, filter=negated, limit=1).warnings == ()


def test_one_of_two_types_suffices(searcher: Searcher, library: Library) -> None:
    library.put("a", 0.0, priority=2)
    either = {"type": "in", "key": "priority", "value": ["2", 2]}
    assert find(searcher, filter=either).warnings == ()
    assert find(searcher, filter={"type": "or", "filters": [eq("priority", "2"), eq("priority", 2)]}).warnings == ()


def test_nested_fields_and_lists_are_reported(searcher: Searcher, library: Library, milvus: FakeMilvus) -> None:
    library.put("a", 0.0, customer={"city": "Ulm", "tags": [1, 2]})
    assert find(searcher, filter=eq(["customer", "city"], "Ulm")).warnings == ()
    assert find(searcher, filter=eq(["customer", "town"], "Ulm")).warnings == (
        "the filter names ['customer', 'town'], and no row with such a field was found",
    )
    assert find(searcher, filter=eq(["customer", "city"], 7)).warnings == (
        "the filter looks for a number in ['customer', 'city'], and no row with such a value was found; rows have a "
        "text",
    )
    contains = {"type": "contains", "key": ["customer", "tags"], "value": "1"}
    (warning,) = find(searcher, filter=contains).warnings
    assert warning == (
        "the filter looks for a list of a text in ['customer', 'tags'], and no row with such a value was found; rows "
        "have a list or a list of a number"
    )
    before = queries(milvus)
    assert find(searcher, filter=contains).warnings == (warning,)
    assert find(searcher, filter=contains).warnings == (warning,)
    assert queries(milvus) == before + 1
    assert find(searcher, filter={**contains, "value": 1}).warnings == ()
    assert find(searcher, filter={"type": "exists", "key": ["customer", "tags"]}).warnings == ()


def test_a_field_that_is_always_null_has_no_type(searcher: Searcher, library: Library) -> None:
    library.put("a", 0.0, note=None)
    (warning,) = find(searcher, filter=eq("note")).warnings
    assert warning.endswith("rows have null")


def test_what_is_known_is_bounded() -> None:
    clock = Clock()
    names = MetadataNames(10.0, clock, most=100)
    for number in range(300):
        names.learn_row({f"name {number}": [0] * 1_000 + ["x"]}, ())
        names.learn_missing([(f"missing {number}",)])
        names.learn_lacking((f"name {number}",), frozenset(["a text"]))
    assert names.kinds(("name 0",)) == {"a list", "a list of a number"}
    assert names.unknown([("name 99",), ("name 100",), ("missing 299",)]) == [("name 100",)]
    assert names.missing([("missing 299",)]) == [("missing 299",)]
