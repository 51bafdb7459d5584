"""Counts of values: what a value is, and what counts once."""

from typing import Any, Literal

from pipeline.query.facet_counts import MAX_ELEMENTS, MAX_VALUE_CHARS, MAX_VALUES, FacetValue, count_values


def rows(*values: Any, doc_id: str = "") -> list[dict[str, Any]]:
    return [{"doc_id": doc_id or str(number), "lang": value} for number, value in enumerate(values)]


def counts(found: list[dict[str, Any]], group_by: Literal["doc_id"] | None = "doc_id") -> list[tuple[object, int]]:
    (facet,) = count_values(found, ["lang"], group_by=group_by)
    return [(one.value, one.count) for one in facet.values]


def test_the_most_frequent_come_first_and_equals_by_value() -> None:
    assert counts(rows("de", "en", "en", "fr")) == [("en", 2), ("de", 1), ("fr", 1)]
    (facet,) = count_values(rows(*map(str, range(25)), "7"), ["lang"], group_by="doc_id")
    assert (facet.values[0], len(facet.values), facet.other_values) == (FacetValue("7", 2), MAX_VALUES, 5)


def test_a_document_counts_once_a_value_and_a_chunk_once_where_chunks_are_results() -> None:
    found = rows("en", "en", "de", doc_id="a")
    assert counts(found) == [("de", 1), ("en", 1)]
    assert counts(found, None) == [("en", 2), ("de", 1)]
    of_tenants = [{**row, "tenant": tenant} for row in found[:1] for tenant in ("x", "y")]
    assert counts(of_tenants) == [("en", 2)]


def test_elements_of_short_lists_count_each_once() -> None:
    assert counts(rows(["a", "b", "a"], "a")) == [("a", 2), ("b", 1)]
    assert counts(rows(["x"] * MAX_ELEMENTS, ["y"] * (MAX_ELEMENTS + 1))) == [("x", 1)]


def test_only_scalars_count() -> None:
    assert counts(rows(None, {"a": 1}, [["b"], {"c": 1}, None, "d"], 1.5)) == [(1.5, 1), ("d", 1)]
    assert counts(rows("x" * MAX_VALUE_CHARS, "y" * (MAX_VALUE_CHARS + 1))) == [("x" * MAX_VALUE_CHARS, 1)]
    assert counts([{"doc_id": "a"}]) == []


def test_true_is_not_one_and_a_number_is_not_its_text() -> None:
    found = counts(rows(True, 1, 1.0, "1", False, 0))
    assert [(repr(value), count) for value, count in found] == [
        ("1", 2),
        ("0", 1),
        ("'1'", 1),
        ("False", 1),
        ("True", 1),
    ]
