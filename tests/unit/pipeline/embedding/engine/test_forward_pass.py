"""Documents in one unpadded row have the vectors that they have padded, for every architecture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.embedding.engine.forward_pass import Forward
from tests.support.examples import examples
from tests.unit.pipeline.embedding.bare_models import FLAT, LONGEST, forward_of, vectors

LENGTHS = st.lists(st.integers(0, LONGEST - 3), min_size=1, max_size=8)


@pytest.fixture(scope="module", params=sorted(FLAT))
def padded_and_flat(request: pytest.FixtureRequest) -> tuple[Forward, Forward]:
    make, pooling = FLAT[request.param]
    padded, flat = forward_of(make(), pooling), forward_of(make(), pooling)
    flat.use_flat_batches()
    return padded, flat


@examples(0.15)
@given(lengths=LENGTHS)
def test_flat_and_padded_batches_give_the_same_vectors(
    padded_and_flat: tuple[Forward, Forward], lengths: list[int]
) -> None:
    padded, flat = padded_and_flat
    expected = vectors(padded, sorted(lengths))
    actual = vectors(flat, sorted(lengths))
    scale = np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(actual - expected).max() <= 2e-5 * scale.max()


def test_the_texts_of_these_tests_differ(padded_and_flat: tuple[Forward, Forward]) -> None:
    actual = vectors(padded_and_flat[1], [30, 30, 31, 90])
    gaps = np.linalg.norm(actual[:, None] - actual, axis=2) / np.linalg.norm(actual, axis=1)
    assert gaps[~np.eye(4, dtype=bool)].min() > 0.02
