"""One tenant's documents only: in the plan, in every call to Milvus, in every row, and in what hints give away."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.query import FetchSettings, Searcher, SearchSettings, parse_request
from pipeline.query.partition_index import PartitionIndex
from pipeline.query.plan import plan_search
from pipeline.query.request.filter_expressions import FilterableFields
from pipeline.query.tenancy import ForeignRow, NamesByTenant, check_tenant, tenant_term, within_tenant
from pipeline.store import Hit
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, DOCUMENTS, EAST, Clock, Library, eq, parse_filter

DYNAMIC = FilterableFields({"doc_id": "string"})


def find(searcher: Searcher, tenant: str | None, **body: object) -> Any:
    return searcher.search(parse_request({"query": "q", **body}), EAST, 5.0, now_ms=0, tenant=tenant)


def test_the_term_is_a_literal_whatever_the_tenant_is_called() -> None:
    assert tenant_term(None, DYNAMIC) == ""
    assert tenant_term('x" or "" == "', DYNAMIC) == '$meta["tenant"] == "x\\" or \\"\\" == \\""'
    assert tenant_term("7", FilterableFields({"tenant": "string"}, dynamic=False)) == 'tenant == "7"'
    with pytest.raises(UsageError, match="tenants"):
        tenant_term("x", FilterableFields({"doc_id": "string"}, dynamic=False))


def test_no_part_of_a_request_can_leave_the_parentheses() -> None:
    assert within_tenant("t", "a or b") == "(t) and (a or b)"
    assert within_tenant("t", "") == "t"
    assert within_tenant("", "a or b") == "a or b"
    rows = parse_filter({"type": "or", "filters": [eq("lang"), {"type": "ne", "key": "tenant", "value": "acme"}]})
    plan = plan_search(None, rows, PartitionIndex(["d20261122"]), (), DYNAMIC, tenant="acme")
    assert plan.expression.startswith('($meta["tenant"] == "acme") and (')
    assert plan.tenant_term == '$meta["tenant"] == "acme"'


def test_only_rows_of_the_tenant_are_found(searcher: Searcher, library: Library) -> None:
    for number, tenant in enumerate(["acme", "other", "acme ", "ACME", ""]):
        library.put(f"{number}", float(number), tenant=tenant)
    library.put("none", 0.0)
    library.put("number", 0.0, tenant=5)
    assert [result.doc_id for result in find(searcher, "acme").results[0]] == ["0"]
    assert find(searcher, "5").results == ((),)
    assert find(searcher, "nobody").results == ((),)
    assert len(find(searcher, None).results[0]) == 7


def test_every_call_to_milvus_holds_the_term(milvus: FakeMilvus, make_searcher: Callable[..., Searcher]) -> None:
    """With rows read whole later, the sample for a warning, and a second version in the ledger."""
    library = Library(milvus)
    for number in range(8):
        library.put(f"{number}", float(number), tenant="acme" if number % 2 else "other", lang="en")
    library.enter("1", 1, tenant="acme")
    seen: list[tuple[str, str]] = []
    search, query = milvus.search, milvus.query

    def watched_search(collection: str, vector_search: Any) -> list[list[Hit]]:
        seen.append((collection, vector_search.expression))
        return search(collection, vector_search)

    def watched_query(collection: str, expression: str, *args: Any, **options: Any) -> list[dict[str, Any]]:
        seen.append((collection, expression))
        return query(collection, expression, *args, **options)

    milvus.search = watched_search  # type: ignore[method-assign,assignment]
    milvus.query = watched_query  # type: ignore[method-assign]
    searcher = make_searcher(whole_rows=1)
    wanted = {"type": "or", "filters": [eq("lang", "en"), eq("nothing", 1)]}
    found = find(searcher, "acme", filter=wanted, limit=4)
    assert {result.doc_id for result in found.results[0]} == {"1", "3", "5", "7"}
    rows = [expression for collection, expression in seen if collection == COLLECTION]
    assert len(rows) >= 4, "candidates, rows read whole, and the sample"
    assert [one for one in rows if not one.lstrip("(").startswith('$meta["tenant"] == "acme") and (')] == []


def test_hints_show_no_name_of_another_tenants_rows(searcher: Searcher, library: Library) -> None:
    library.put("a", 0.0, tenant="acme", lang="en")
    library.put("b", 0.0, tenant="other", project_falcon="x")
    find(searcher, "other")
    find(searcher, None)
    (warning,) = find(searcher, "acme", filter=eq("project_falcom")).warnings
    assert "falcon" not in warning
    (warning,) = find(searcher, "acme", filter=eq("project_falcon")).warnings
    assert "no row" in warning, "that another tenant has such rows is none of its business"
    assert find(searcher, "other", filter=eq("project_falcon")).warnings == ()
    assert "did you mean 'project_falcon'" in find(searcher, "other", filter=eq("project_falcom")).warnings[0]


class Leaking(FakeMilvus):
    """A server that does not filter by metadata."""

    blind: str | None = None
    """The operation that does not filter."""

    def search(self, collection: str, search: Any) -> list[list[Hit]]:
        return super().search(collection, _unfiltered(search) if self.blind == "search" else search)

    def query(self, collection: str, expression: str, *args: Any, **options: Any) -> list[dict[str, Any]]:
        rows = super().query(collection, expression, *args, **options)
        return [{**row, "tenant": "other"} for row in rows] if self.blind == "query" else rows


def _unfiltered(search: Any) -> Any:
    return dataclasses.replace(search, expression="")


@pytest.mark.parametrize(("blind", "whole_rows"), [("search", 1), ("search", 128), ("query", 1)])
def test_a_server_that_does_not_filter_gives_no_answer(blind: str, whole_rows: int) -> None:
    milvus = Leaking()
    milvus.create_collection(DOCUMENTS)
    library = Library(milvus)
    library.put("a", 0.0, tenant="other")
    library.put("b", 0.0)
    library.put("c", 0.0, tenant="acme")
    searcher = Searcher(milvus, COLLECTION, SearchSettings(FetchSettings(whole_rows=whole_rows)))
    assert [result.doc_id for result in find(searcher, "acme").results[0]] == ["c"]
    milvus.blind = blind
    with pytest.raises(ForeignRow):
        find(searcher, "acme")


def test_a_row_is_the_tenants_or_an_error() -> None:
    check_tenant({"tenant": "other"}, None)
    check_tenant({"tenant": "acme"}, "acme")
    for row in ({"tenant": "other"}, {}, {"tenant": None}, {"tenant": ["acme"]}):
        with pytest.raises(ForeignRow):
            check_tenant(row, "acme")


def test_names_are_bounded_over_all_tenants() -> None:
    names = NamesByTenant(10.0, Clock())
    first = names.of("first")
    first.learn_row({f"name {number}": 1 for number in range(3)}, ())
    for number in range(127):
        names.of(f"{number}").learn_missing([(f"{at}",) for at in range(1_001)])
    assert names.of("first") is first
    assert len(names.of("126").missing([(f"{at}",) for at in range(1_001)])) == 1, "the full set was emptied"
    for number in range(128):
        names.of(f"later {number}")
    assert names.of("first") is not first
    assert names.of("later 127") is names.of("later 127")
