"""Rows get few different lengths and little padding."""

import pytest

from pipeline.embedding.engine.openvino_passes import shape_step


@pytest.mark.parametrize(("longest", "step"), [(1, 1), (15, 1), (16, 2), (33, 4), (64, 8), (128, 16), (8192, 16)])
def test_the_step_follows_the_length(longest: int, step: int) -> None:
    assert shape_step(longest) == step


def test_an_eighth_is_the_most_that_is_padded_and_lengths_are_few() -> None:
    padded = {length: -(-length // shape_step(length)) * shape_step(length) for length in range(1, 513)}
    assert all(row <= length * 9 / 8 for length, row in padded.items())
    assert len(set(padded.values())) <= 64
