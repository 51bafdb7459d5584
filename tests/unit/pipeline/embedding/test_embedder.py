"""The stamp that tells one model's vectors from another's."""

from dataclasses import replace

import pytest

from pipeline.embedding import ModelStamp
from pipeline.errors import Mismatch

STAMP = ModelStamp("org/model", "ab" * 32, 384, "mean", 256)


def test_a_stamp_survives_being_stored() -> None:
    assert ModelStamp.from_json(STAMP.to_json()) == STAMP


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"name": "x"}', '{"name": 1, "digest": 2, "dimension": "x"}']
)
def test_anything_else_is_a_mismatch(text: str) -> None:
    with pytest.raises(Mismatch, match="model stamp"):
        ModelStamp.from_json(text)


def test_the_same_files_under_another_name_are_the_same_model() -> None:
    assert replace(STAMP, name="/models/mine").fingerprint == STAMP.fingerprint


@pytest.mark.parametrize("change", [{"digest": "cd" * 32}, {"dimension": 768}, {"pooling": "cls"}, {"max_tokens": 512}])
def test_any_other_difference_is_another_model(change: dict[str, object]) -> None:
    assert replace(STAMP, **change).fingerprint != STAMP.fingerprint  # type: ignore[arg-type]
