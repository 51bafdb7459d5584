"""Flat batches are enabled where the vectors agree, and disabled again where they do not."""

from typing import Any

import numpy as np
import pytest

from pipeline.embedding.kernels.varlen_attention import attend
from tests.unit.pipeline.embedding.bare_models import (
    FLAT,
    LONGEST,
    WINDOW,
    flat_batches_log,
    forward_of,
    mpnet,
    vectors,
)


def test_what_agrees_is_run_flat(capsys: pytest.CaptureFixture[str]) -> None:
    for make, pooling in FLAT.values():
        forward = forward_of(make(), pooling)
        assert flat_batches_log(forward, capsys) == ""
        assert forward.flat


def test_a_model_without_attention_functions_stays_padded(capsys: pytest.CaptureFixture[str]) -> None:
    forward = mpnet()
    before = vectors(forward, [4, 9])
    assert "MPNetModel takes no attention function" in flat_batches_log(forward, capsys)
    assert not forward.flat
    assert np.array_equal(vectors(forward, [4, 9]), before)


@pytest.mark.parametrize("kind", ["modernbert", "gemma3", "gemma3-causal"])
@pytest.mark.parametrize("error", [-1, 1])
def test_a_window_that_is_one_token_off_is_noticed(
    kind: str, error: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: Any, sliding_window: int | None = None, **options: Any) -> object:
        return attend(*args, sliding_window=sliding_window and sliding_window + error, **options)

    monkeypatch.setattr("pipeline.embedding.kernels.varlen_attention.attend", wrong)
    make, pooling = FLAT[kind]
    forward = forward_of(make(), pooling)
    assert max(forward.windows()) <= WINDOW < LONGEST
    assert "vectors differ" in flat_batches_log(forward, capsys)
    assert not forward.flat


def test_positions_that_go_on_are_noticed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.embedding.engine.forward_pass.first_position", lambda _: 0)
    make, pooling = FLAT["xlm-roberta"]
    assert "vectors differ" in flat_batches_log(forward_of(make(), pooling), capsys)
