"""Cards of results: excerpts around marks, headings, links, scores."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.query.web.cards import Card, cards
from pipeline.query import SearchAnswer
from pipeline.query.answer import Freshness, Origin, Result, Searched, SearchResult, Timing, shape_answer


def answer(*results: Result) -> SearchAnswer:
    found = SearchResult((results,), False, Searched((), ()), (), "dense")
    shaped = shape_answer(found, many=False, freshness=Freshness(), timing=Timing(0, 0, 0))
    assert isinstance(shaped, SearchAnswer)
    return shaped


def result(text: str = "text", *, score: float = 0.5, legs: dict[str, float] | None = None, **metadata: Any) -> Result:
    origin = Origin("topic", 0, 1)
    return Result("1", "a", text, score, legs or {}, "2026-11-22T00:00:00Z", 0, None, origin, metadata)


def card(*args: Any, spans: list[tuple[int, int]] | None = None, **more: Any) -> Card:
    [made] = cards(answer(result(*args, **more)), "q", 0, 10, lambda *_: spans or [])
    return made


def marked(shown: Card) -> list[str]:
    return [piece.text for piece in shown.excerpt if piece.marked]


@given(
    st.text(max_size=2_000),
    st.lists(st.tuples(st.integers(-5, 2_100), st.integers(-5, 2_100)), max_size=8).map(sorted),
)
def test_no_ranges_change_the_text(text: str, spans: list[tuple[int, int]]) -> None:
    shown = card(text, spans=spans)
    excerpt = "".join(piece.text for piece in shown.excerpt)
    whole = "".join(piece.text for piece in shown.whole)
    assert excerpt in text
    assert len(excerpt) == min(len(text), 450)
    assert whole in ("", text)
    assert (excerpt == text) is (whole == "")
    assert shown.cut_before is not text.startswith(excerpt) or not shown.cut_before
    assert all(piece.text for piece in (*shown.excerpt, *shown.whole))


def test_the_excerpt_is_where_the_first_mark_is() -> None:
    shown = card("x" * 1_000 + "needle" + "y" * 1_000, spans=[(1_000, 1_006)])
    assert marked(shown) == ["needle"]
    assert (shown.cut_before, shown.cut_after) == (True, True)
    assert len(shown.excerpt[0].text) == 120
    end = card("x" * 1_000 + "needle", spans=[(1_000, 1_006)])
    assert marked(end) == ["needle"]
    assert not end.cut_after


@pytest.mark.parametrize(
    ("metadata", "heading"),
    [
        ({"title": "T", "name": "N"}, "T"),
        ({"title": "", "name": "N"}, "N"),
        ({"title": 5}, "a"),
        ({}, "a"),
        ({"subject": "s" * 200}, "s" * 160 + "…"),
    ],
)
def test_the_heading_is_a_title_or_the_id(metadata: dict[str, Any], heading: str) -> None:
    assert card(**metadata).heading == heading


def test_the_title_is_not_repeated_below() -> None:
    assert card(title="T", name="N").metadata == {"name": "N"}


@pytest.mark.parametrize(
    ("address", "link"),
    [
        ("https://example.org/a?b=c", True),
        ("http://example.org", True),
        ("HTTPS://example.org", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)", False),
        (" javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//example.org", False),
        ("https:", False),
        ("http://[", False),
        (5, False),
    ],
)
def test_only_addresses_of_the_web_are_links(address: object, link: bool) -> None:
    assert card(url=address).link == (address if link else "")


def test_scores_are_bars_of_what_is_most() -> None:
    made = cards(
        answer(result(score=20.0, legs={"dense": 0.5, "keyword": 20.0}), result(score=5.0), result(score=-0.1)),
        "q",
        0,
        10,
        None,
    )
    widths = [{score.name: score.width for score in shown.scores} for shown in made]
    assert widths == [{"score": 100.0, "dense": 50.0, "keyword": 100.0}, {"score": 25.0}, {"score": 0.5}]


def test_cards_are_those_of_one_page() -> None:
    made = cards(answer(*(result(str(number)) for number in range(25))), "q", 10, 10, None)
    assert [shown.rank for shown in made] == list(range(11, 21))
    assert made[0].excerpt[0].text == "10"
