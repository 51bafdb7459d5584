"""Older documents lose a part of their score, and rows with a low score are left out."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.query import InvalidRequest, Searcher, parse_request
from pipeline.query.recency import Recency, recent_first
from pipeline.store import Hit
from pipeline.timestamps import event_time_ms
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import EAST, Library, doc_ids

NOW_MS = event_time_ms("2026-11-23")
HOUR_MS = 3_600_000


def hit(name: str, score: float, age_h: float = 0.0) -> Hit:
    return Hit(name, score, {"event_time": NOW_MS - round(age_h * HOUR_MS)})


def test_half_of_the_weight_is_lost_after_a_half_life() -> None:
    aged = recent_first(
        [hit("now", 0.8), hit("old", 0.8, 12), hit("older", 0.8, 24)], Recency(12 * HOUR_MS, 0.4), NOW_MS
    )
    assert [each.score for each in aged] == pytest.approx([0.8, 0.8 * 0.8, 0.8 * 0.7])
    assert [each.legs["recency"] for each in aged] == pytest.approx([1, 0.5, 0.25])


def test_a_document_of_the_future_is_no_better_than_one_of_now() -> None:
    assert recent_first([hit("ahead", 0.5, -5)], Recency(HOUR_MS, 1.0), NOW_MS)[0].score == 0.5


SCORES = st.floats(-1, 1)
AGES = st.floats(0, 10_000)


@given(st.lists(st.tuples(SCORES, AGES), max_size=12), st.integers(1, 10**12), st.floats(0.01, 1))
def test_every_hit_remains_and_none_gains(rows: list[tuple[float, float]], half_life_ms: int, weight: float) -> None:
    hits = [hit(str(number), score, age) for number, (score, age) in enumerate(rows)]
    aged = recent_first(hits, Recency(half_life_ms, weight), NOW_MS)
    assert {each.id for each in aged} == {each.id for each in hits}
    before = {each.id: each.score for each in hits}
    assert all(each.score <= before[each.id] for each in aged)
    assert [each.score for each in aged] == sorted((each.score for each in aged), reverse=True)


@given(SCORES, AGES, AGES, st.floats(0.01, 1))
def test_of_two_equal_hits_the_newer_is_never_the_worse(score: float, one: float, other: float, weight: float) -> None:
    newer, older = sorted((one, other))
    scores = {each.id: each.score for each in recent_first(
        [hit("older", score, older), hit("newer", score, newer)], Recency(HOUR_MS, weight), NOW_MS
    )}  # fmt: skip
    assert scores["newer"] >= scores["older"]


def ids(searcher: Searcher, **body: object) -> list[str]:
    request = parse_request({"query": "q", **body})
    return doc_ids(searcher.search(request, EAST, 5.0, now_ms=NOW_MS))


def test_a_newer_document_comes_first_and_a_little_nearer_one_after_it(searcher: Searcher, library: Library) -> None:
    library.put("nearest", 0.0, day="2026-11-02")
    library.put("near", 20.0, day="2026-11-22")
    assert ids(searcher) == ["nearest", "near"]
    assert ids(searcher, recency={"half_life": "24h"}) == ["near", "nearest"]
    assert ids(searcher, recency={"half_life": "24h", "weight": 0.01}) == ["nearest", "near"]


def test_recency_looks_beyond_the_nearest_few(make_searcher: Callable[..., Searcher], library: Library) -> None:
    for number in range(12):
        library.put(f"old {number}", float(number), day="2026-11-02")
    library.put("new", 13.0, day="2026-11-22")
    assert ids(make_searcher(), limit=1, recency={"half_life": "1h", "weight": 1}) == ["new"]


def test_rows_with_a_low_score_are_left_out_and_no_more_are_read(
    make_searcher: Callable[..., Searcher], milvus: FakeMilvus, library: Library
) -> None:
    for number in range(20):
        library.put(f"d{number:02}", 4.0 * number)
    found = ids(make_searcher(overfetch=2), limit=4, min_score=0.98)
    assert found == ["d00", "d01", "d02"]
    assert sum(operation == "search" for operation, *_ in milvus.calls) == 1
    assert ids(make_searcher(), min_score=1.1) == []


def test_the_least_score_counts_before_recency(searcher: Searcher, library: Library) -> None:
    library.put("old", 0.0, day="2026-11-02")
    assert ids(searcher, min_score=0.9, recency={"half_life": "1h", "weight": 1}) == ["old"]


@pytest.mark.parametrize(
    ("body", "at", "words"),
    [
        ({"recency": {}}, "/recency/half_life", "is missing"),
        ({"recency": {"half_life": 5}}, "/recency/half_life", "must be a number above 0 with a unit"),
        ({"recency": {"half_life": "0h"}}, "/recency/half_life", "must be a number above 0 with a unit"),
        ({"recency": {"half_life": "1h", "weight": 0}}, "/recency/weight", "above 0, at most 1"),
        ({"recency": {"half_life": "1h", "weight": 1.5}}, "/recency/weight", "above 0, at most 1"),
        ({"recency": "1h"}, "/recency", "must be an object such as"),
        ({"recency": {"halflife": "1h"}}, "/recency/halflife", "is not a known key"),
        ({"min_score": "high"}, "/min_score", "must be a finite number"),
        ({"min_score": float("inf")}, "/min_score", "must be a finite number"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, object], at: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_request({"query": "q", **body})
    assert refused.value.at == at
    assert words in str(refused.value)
