"""Two orders become one by reciprocal ranks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.query.fusion import DENSE, KEYWORD, Fusion, fuse
from pipeline.store import Hit


def hits(ids: str, scale: float = 1.0) -> list[Hit]:
    return [Hit(identifier, scale * (100 - rank), {"doc_id": identifier}) for rank, identifier in enumerate(ids)]


def order(found: list[Hit]) -> str:
    return "".join(hit.id for hit in found)


def test_the_first_of_every_leg_has_score_one_and_the_scores_of_its_legs() -> None:
    best, *_ = fuse({DENSE: hits("abc", 0.01), KEYWORD: hits("adb")}, Fusion())
    assert best.score == pytest.approx(1)
    assert (best.legs, best.fields) == ({DENSE: 1.0, KEYWORD: 100.0}, {"doc_id": "a"})


def test_what_both_legs_found_comes_before_what_one_did() -> None:
    found = fuse({DENSE: hits("abc"), KEYWORD: hits("dbe")}, Fusion())
    assert order(found) == "badce"
    assert [set(hit.legs) for hit in found[:2]] == [{DENSE, KEYWORD}, {DENSE}]


def test_weights_decide_and_a_leg_of_weight_zero_finds_nothing() -> None:
    legs = {DENSE: hits("ab"), KEYWORD: hits("dc")}
    assert order(fuse(legs, Fusion(weights={DENSE: 0.4, KEYWORD: 0.6})))[0] == "d"
    assert order(fuse(legs, Fusion(weights={DENSE: 1.0, KEYWORD: 0.0}))) == "ab"
    assert fuse({DENSE: [], KEYWORD: []}, Fusion()) == []


def test_weights_too_small_to_be_divided_are_compared_all_the_same() -> None:
    legs = {DENSE: hits("ab"), KEYWORD: hits("dc")}
    assert order(fuse(legs, Fusion(weights={DENSE: 1e-323, KEYWORD: 0.0}))) == "ab"
    assert order(fuse(legs, Fusion(weights={DENSE: 0.0, KEYWORD: 0.0}))) == ""


def test_a_row_that_was_replaced_between_two_legs_has_the_fields_of_the_later() -> None:
    (hit,) = fuse({DENSE: [Hit("a", 0.5, {"at": 1})], KEYWORD: [Hit("a", 3.0, {"at": 2})]}, Fusion())
    assert (hit.fields, hit.legs) == ({"at": 2}, {DENSE: 0.5, KEYWORD: 3.0})


IDS = st.lists(st.sampled_from("abcdefghij"), unique=True).map("".join)


@given(IDS, IDS, st.integers(1, 1000), st.floats(0.01, 100), st.floats(0.01, 100))
def test_every_row_comes_once_in_an_order_that_no_leg_contradicts_alone(
    dense: str, keyword: str, k: int, by_meaning: float, by_words: float
) -> None:
    found = fuse({DENSE: hits(dense), KEYWORD: hits(keyword)}, Fusion(k, {DENSE: by_meaning, KEYWORD: by_words}))
    fused = order(found)
    assert sorted(fused) == sorted({*dense, *keyword})
    scores = [hit.score for hit in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 + 1e-9 for score in scores)
    for one in fused:
        for other in fused:
            better = [leg.index(one) < leg.index(other) for leg in (dense, keyword) if one in leg and other in leg]
            only_one = all(one in leg or other not in leg for leg in (dense, keyword))
            if only_one and better and all(better):
                assert fused.index(one) < fused.index(other)
