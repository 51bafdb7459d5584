"""Addresses of searches: what they mean, and that each one leads back to the same search."""

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.query.web.form import BadCondition, SearchForm, parse_form


def parsed(address: str) -> SearchForm:
    return parse_form(parse_qsl(address.partition("?")[2])).form


TEXTS = st.text(st.characters(codec="utf-8"), max_size=20).map(str.strip)


@given(
    st.builds(
        SearchForm,
        q=TEXTS,
        mode=TEXTS,
        from_=TEXTS,
        to=TEXTS,
        where=st.lists(TEXTS.filter(bool), unique=True, max_size=4).map(tuple),
        recency=TEXTS,
        chunks=st.booleans(),
        scores=st.booleans(),
        page=st.integers(1, 9999),
    )
)
def test_an_address_leads_back_to_its_search(form: SearchForm) -> None:
    assert parsed(form.address(page=form.page)) == form
    assert form.address(page=form.page).isascii()


def test_another_search_begins_at_its_first_page() -> None:
    assert parsed(SearchForm(q="a", page=3).address(mode="dense")) == SearchForm(q="a", mode="dense")


def test_the_request_has_only_what_is_set() -> None:
    assert SearchForm(q="a").body(11) == {"query": "a", "limit": 11}
    whole = parsed("/?q=a&mode=hybrid&last=24h&where=lang=en&where=n>=2&recency=7d&chunks=1&scores=1&page=2")
    assert whole.body(21) == {
        "query": "a",
        "limit": 21,
        "mode": "hybrid",
        "time": {"last": "24h"},
        "filter": {
            "type": "and",
            "filters": [{"type": "eq", "key": "lang", "value": "en"}, {"type": "gte", "key": "n", "value": 2}],
        },
        "recency": {"half_life": "7d"},
        "group_by": None,
    }


@pytest.mark.parametrize(
    ("query", "times"),
    [
        ("last=24h&from=2026-11-20", {"last": "24h"}),
        ("last=custom&from=2026-11-20", {"from": "2026-11-20"}),
        ("last=24h&from=2026-11-20&last=custom", {"from": "2026-11-20"}),
        ("from=2026-11-20&to=2026-11-22", {"from": "2026-11-20", "to": "2026-11-22"}),
        ("last=custom", {}),
    ],
)
def test_a_span_and_two_ends_exclude_one_another(query: str, times: dict[str, str]) -> None:
    assert parsed(f"/?q=a&{query}").times == times


@pytest.mark.parametrize(
    ("value", "condition"),
    [
        ("en", {"type": "eq", "key": "k", "value": "en"}),
        ("5", {"type": "eq", "key": "k", "value": "5"}),
        ("true", {"type": "eq", "key": "k", "value": "true"}),
        ('"quoted"', {"type": "eq", "key": "k", "value": '"quoted"'}),
        (5, {"type": "eq", "key": "k", "value": 5}),
        (0, {"type": "eq", "key": "k", "value": 0}),
        (False, {"type": "eq", "key": "k", "value": False}),
    ],
)
def test_a_value_narrows_a_search_to_exactly_itself(value: object, condition: dict[str, object]) -> None:
    narrowed = parsed(SearchForm(q="a").narrower("k", value))
    assert narrowed.body(1)["filter"]["filters"] == [condition]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("k", ""),
        ("k", "x" * 101),
        ("k", [1]),
        ("k", None),
        ("k", 1.5),
        ("k", 2**60),
        ("a=b", "x"),
        ("a~", "x"),
        ("", "x"),
        (" k", "x"),
        ("k", " "),
    ],
)
def test_what_no_condition_can_say_has_no_link(key: str, value: object) -> None:
    assert SearchForm(q="a").narrower(key, value) == ""


@given(TEXTS, st.one_of(TEXTS, st.booleans(), st.integers()))
def test_no_metadata_makes_a_bad_link(key: str, value: object) -> None:
    address = SearchForm(q="a").narrower(key, value)
    if address:
        [condition] = parsed(address).body(1)["filter"]["filters"]
        assert (condition["key"], condition["value"]) == (key, value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tags~=new", ("tags", "contains", "new")),
        ("tags?", ("tags", "exists", "")),
        ('k="\\ud800"', ("k", "is", '"\\ud800"')),
    ],
)
def test_every_condition_can_be_shown(text: str, shown: tuple[str, str, str]) -> None:
    [one] = SearchForm(where=(text,)).conditions
    assert (one.key, one.comparison, one.value) == shown
    one.value.encode()


def test_a_condition_without_an_operator_is_refused() -> None:
    with pytest.raises(BadCondition, match="where=key=value"):
        SearchForm(q="a", where=("nonsense",)).body(1)
    assert SearchForm(where=("nonsense",)).conditions == []


def test_a_name_that_ends_like_an_operator_is_not_compared_with_another_one() -> None:
    assert "POST /v1/search" in parse_form([("key", "a~"), ("op", "="), ("value", "x")]).problem
    assert SearchForm(q="a").narrower("a~", "x") == ""
