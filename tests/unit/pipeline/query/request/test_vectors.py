"""Vectors in a request: what is a vector, and where a wrong one is."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.query import InvalidRequest, parse_request
from pipeline.query.request.body import decode_json
from pipeline.query.request.request import SearchRequest
from pipeline.query.request.vectors import MAX_DIMENSION, MAX_LENGTH, MIN_LENGTH
from tests.support.examples import examples


def vector(value: Any, **more: Any) -> SearchRequest:
    return parse_request({"vector": value, **more})


def values(request: SearchRequest) -> Any:
    assert request.vector is not None
    return request.vector.values


def test_one_vector_and_several() -> None:
    one, several = vector([1, -0.5]), vector([[1, 0], [0, 2.5]])
    assert (one.many, several.many) == (False, True)
    assert (len(one.queries), len(several.queries)) == (1, 2)
    np.testing.assert_array_equal(values(one), np.array([[1, -0.5]], np.float32))
    np.testing.assert_array_equal(values(several), np.array([[1, 0], [0, 2.5]], np.float32))
    assert values(one).dtype == np.float32
    assert not any(request.embeds for request in (one, several, vector([1, 0], query="q")))


def test_a_vector_alone_is_searched_by_meaning() -> None:
    assert vector([1.0]).mode_wanted == "dense"
    assert vector([1.0], mode="dense").mode_wanted == "dense"
    assert vector([1.0], query="q").mode_wanted is None
    assert vector([1.0], query="q", mode="hybrid").mode_wanted == "hybrid"


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("1, 0", "/vector"),
        ({}, "/vector"),
        (1, "/vector"),
        ([], "/vector"),
        ([[]], "/vector/0"),
        ([1, "1"], "/vector/1"),
        ([1, None], "/vector/1"),
        ([True, 1], "/vector/0"),
        ([1, [1]], "/vector/1"),
        ([[1], 1], "/vector/1"),
        ([[1], [[1]]], "/vector/1/0"),
        ([[1, 0], [1]], "/vector/1"),
        ([[1, 0], [1, "x"]], "/vector/1/1"),
        ([0, 0.0, -0.0], "/vector"),
        ([[1, 0], [0, 0]], "/vector/1"),
        ([float("nan")], "/vector/0"),
        ([1.0, float("inf")], "/vector/1"),
        ([10**400], "/vector/0"),
        ([1e-19, 0], "/vector"),
        ([1e300, 1e300], "/vector"),
        ([5e-324], "/vector"),
        ([[1]] * 33, "/vector"),
        ([1] * (MAX_DIMENSION + 1), "/vector"),
    ],
)
def test_refused_where(value: Any, at: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        vector(value)
    assert caught.value.at == at
    assert "1e-19" not in caught.value.detail


@pytest.mark.parametrize(
    ("body", "at", "words"),
    [
        ({}, "/query", "is missing: a text, or a list of texts; or a vector in its place"),
        ({"vector": None}, "/query", "is missing"),
        ({"query": None, "vector": None}, "/query", "must be a text, or a list of texts"),
        ({"vector": [1], "mode": "hybrid"}, "/query", "is missing: a hybrid search needs a text beside the vector"),
        ({"vector": [1], "mode": "keyword"}, "/query", "is missing"),
        ({"query": "q", "vector": [1], "mode": "keyword"}, "/vector", "is not for keyword searches"),
        ({"vector": [1], "fusion": {}}, "/fusion", "is for hybrid searches"),
        ({"query": ["q"], "vector": [1]}, "/vector", "must be a list of 1 vectors, one for each text"),
        ({"query": "q", "vector": [[1]]}, "/vector", "must be one vector, as query is one text"),
        ({"query": ["q", "r"], "vector": [[1]]}, "/vector", "must be a list of 2 vectors"),
        ({"vector": [[1]] * 4, "limit": 251}, "/limit", "at most 1,000: lower it to 250"),
        ({"vektor": [1]}, "/vektor", "is not a known key"),
    ],
)
def test_what_goes_with_a_vector(body: Any, at: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        parse_request(body)
    assert caught.value.at == at


def test_the_dimension_is_compared_with_the_collection() -> None:
    request = vector([[1, 0], [0, 1]])
    assert request.vector is not None
    request.vector.check_dimension(2)
    request.vector.check_dimension(None)
    with pytest.raises(InvalidRequest, match=r"^/vector/0: has 2 numbers; the collection's vectors have 384$"):
        request.vector.check_dimension(384)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@examples(times=2)
@given(st.lists(st.floats(width=64) | st.integers(), min_size=1, max_size=5) | _ANY)
def test_what_is_accepted_can_be_compared_by_every_metric(value: Any) -> None:
    """The 32-bit squares of an accepted vector are finite and not all zero; a refusal points into the vector."""
    at, accepted = "/vector", np.ones((1, 1), np.float32)
    try:
        accepted = values(vector(value))
    except InvalidRequest as refusal:
        at = refusal.at
    assert at.startswith("/vector" if value is not None else "/query")
    squares = np.square(accepted, dtype=np.float32).sum(axis=1, dtype=np.float32)
    assert np.isfinite(squares).all()
    assert (squares > 0).all()


@given(st.floats(min_value=MIN_LENGTH, max_value=MAX_LENGTH), st.integers(1, 4))
def test_json_and_back_is_the_same_vector(length: float, dimension: int) -> None:
    numbers = [length / dimension**0.5] * dimension
    body = json.dumps({"vector": numbers}).encode()
    try:
        again = values(parse_request(decode_json(body)))
    except InvalidRequest:
        assert min(abs(length / MIN_LENGTH - 1), abs(length / MAX_LENGTH - 1)) < 1e-6, "only at the ends"
        return
    np.testing.assert_array_equal(again[0], np.array(numbers, np.float32))
