"""Documents in one unpadded row have the vectors they have padded, for every architecture; else they are padded."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.embedding.engine.device_transfer import HostTransfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.kernels.varlen_attention import AttentionSpan, attend, runs, varlen_options
from pipeline.embedding.loading.fast_paths import enable_fast_paths
from pipeline.records import Tokens
from tests.support.examples import examples
from tests.unit.pipeline.embedding.bare_models import AROUND, FLAT, LONGEST, WINDOW, forward_of, mpnet, texts

LENGTHS = st.lists(st.integers(0, LONGEST - 3), min_size=1, max_size=8)


def vectors(forward: Forward, lengths: list[int]) -> NDArray[np.float32]:
    inputs = forward.inputs(texts(lengths), AROUND)
    return forward(inputs, HostTransfer().upload(inputs.arrays)).numpy()


@pytest.fixture(scope="module", params=sorted(FLAT))
def padded_and_flat(request: pytest.FixtureRequest) -> tuple[Forward, Forward]:
    make, pooling = FLAT[request.param]
    padded, flat = forward_of(make(), pooling), forward_of(make(), pooling)
    flat.use_flat_batches()
    return padded, flat


@examples(0.15)
@given(lengths=LENGTHS)
def test_flat_is_padded(padded_and_flat: tuple[Forward, Forward], lengths: list[int]) -> None:
    padded, flat = padded_and_flat
    expected = vectors(padded, sorted(lengths))
    found = vectors(flat, sorted(lengths))
    scale = np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(found - expected).max() <= 2e-5 * scale.max()


def test_the_texts_of_these_tests_differ(padded_and_flat: tuple[Forward, Forward]) -> None:
    found = vectors(padded_and_flat[1], [30, 30, 31, 90])
    gaps = np.linalg.norm(found[:, None] - found, axis=2) / np.linalg.norm(found, axis=1)
    assert gaps[~np.eye(4, dtype=bool)].min() > 0.02


class Words:
    """As much of a model's tokenizer as the check needs."""

    before_document = before_query = AROUND.before
    after = AROUND.after

    def prompt_tokens(self, *, query: bool) -> int:
        return 0

    def tokenize(self, given: list[str]) -> list[Tokens]:
        none = np.empty(0, dtype=np.int32)
        return [Tokens(ids, none, none) for ids in texts([20] * len(given))]


def check(forward: Forward, capsys: pytest.CaptureFixture[str], *, pack: bool = False) -> str:
    """What the log says."""
    words: Any = Words()
    enable_fast_paths(forward, HostTransfer(), words, limit=LONGEST, name="tiny", pack=pack)
    return capsys.readouterr().out


def test_what_agrees_is_run_flat(capsys: pytest.CaptureFixture[str]) -> None:
    for make, pooling in FLAT.values():
        forward = forward_of(make(), pooling)
        assert check(forward, capsys) == ""
        assert forward.flat


def test_a_model_without_attention_functions_stays_padded(capsys: pytest.CaptureFixture[str]) -> None:
    forward = mpnet()
    before = vectors(forward, [4, 9])
    assert "MPNetModel takes no attention function" in check(forward, capsys)
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
    assert "vectors differ" in check(forward, capsys)
    assert not forward.flat


def test_positions_that_go_on_are_noticed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.embedding.engine.forward_pass.first_position", lambda _: 0)
    make, pooling = FLAT["xlm-roberta"]
    assert "vectors differ" in check(forward_of(make(), pooling), capsys)


def where(lengths: list[int]) -> dict[str, Any]:
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return {"host_offsets": offsets, "cu_seq_lens_q": offsets}


@pytest.mark.parametrize("name", ["softcap", "position_bias"])
def test_scores_that_are_changed_otherwise_are_refused(name: str) -> None:
    row = torch.ones(1, 2, 3, 4)
    options: dict[str, Any] = {**where([3]), name: 50.0}
    with pytest.raises(NotImplementedError, match=name):
        attend(torch.nn.Identity(), row, row, row, None, **options)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 30, 300])
def test_a_window_in_a_long_document(window: int, causal: bool) -> None:
    lengths = [700, 700, 257, 256, 3]
    torch.manual_seed(1)
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    found, _ = attend(
        torch.nn.Identity(), query, key, value, None,
        **where(lengths), sliding_window=window, is_causal=causal,
    )  # fmt: skip
    for start, end in pairwise(offsets):
        places = torch.arange(end - start)
        distance = places[:, None] - places
        mask = (distance.abs() < window) & ((distance >= 0) | (not causal))
        q, k, v = (row[:, :, start:end] for row in (query, key, value))
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        assert torch.allclose(found[:, start:end], expected, atol=1e-5)


def test_neighbours_of_one_length_are_one_run() -> None:
    assert runs([7, 7, 7, 4, 7, 1, 1]) == [(0, 7, 3), (21, 4, 1), (25, 7, 1), (32, 1, 2)]


def sights() -> Iterator[tuple[AttentionSpan, dict[str, object] | None, dict[str, object]]]:
    """What is wanted, and what torch 2.11 and later versions are asked for: None is refused."""
    usual = 1 / math.sqrt(64)
    yield AttentionSpan(usual, None, False), {"is_causal": False}, {"scale": usual, "window_size": (-1, -1)}
    yield AttentionSpan(None, None, True), {"is_causal": True}, {"scale": None, "window_size": (-1, 0)}
    yield AttentionSpan(usual, 65, False), None, {"scale": usual, "window_size": (64, 64)}
    yield AttentionSpan(usual, 65, True), None, {"scale": usual, "window_size": (64, 0)}
    yield AttentionSpan(0.5, None, False), None, {"scale": 0.5, "window_size": (-1, -1)}


@pytest.mark.parametrize(("sight", "old", "new"), list(sights()))
def test_the_fused_kernel_is_asked_only_for_what_it_offers(
    sight: AttentionSpan, old: dict[str, object] | None, new: dict[str, object]
) -> None:
    assert varlen_options({"scale", "window_size", "enable_gqa"}, sight, 64) == new
    if old is None:
        with pytest.raises(NotImplementedError):
            varlen_options({"is_causal"}, sight, 64)
    else:
        assert varlen_options({"is_causal"}, sight, 64) == old
