"""The stamp that identifies a model's vectors."""

from dataclasses import replace

import pytest

from pipeline.embedding import ModelStamp

STAMP = ModelStamp("org/model", "ab" * 32, 384, "mean", 256)


def test_the_same_files_under_another_name_are_the_same_model() -> None:
    assert replace(STAMP, name="/models/mine").fingerprint == STAMP.fingerprint


@pytest.mark.parametrize("change", [{"digest": "cd" * 32}, {"dimension": 768}, {"pooling": "cls"}, {"max_tokens": 512}])
def test_any_other_difference_is_another_model(change: dict[str, object]) -> None:
    assert replace(STAMP, **change).fingerprint != STAMP.fingerprint  # type: ignore[arg-type]
