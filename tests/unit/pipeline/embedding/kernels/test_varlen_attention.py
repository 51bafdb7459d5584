"""Attention over documents in one unpadded row: windows, runs of one length, and arguments it refuses."""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.embedding.kernels.varlen_attention import AttentionSpan, attend, runs, varlen_options


def where(lengths: list[int]) -> dict[str, Any]:
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return {"host_offsets": offsets, "cu_seq_lens_q": offsets}


@pytest.mark.parametrize("name", ["softcap", "position_bias"])
def test_arguments_that_change_the_scores_are_refused(name: str) -> None:
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
    actual, _ = attend(
        torch.nn.Identity(), query, key, value, None,
        **where(lengths), sliding_window=window, is_causal=causal,
    )  # fmt: skip
    for start, end in pairwise(offsets):
        places = torch.arange(end - start)
        distance = places[:, None] - places
        mask = (distance.abs() < window) & ((distance >= 0) | (not causal))
        q, k, v = (row[:, :, start:end] for row in (query, key, value))
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        assert torch.allclose(actual[:, start:end], expected, atol=1e-5)


def test_neighbours_of_one_length_are_one_run() -> None:
    assert runs([7, 7, 7, 4, 7, 1, 1]) == [(0, 7, 3), (21, 4, 1), (25, 7, 1), (32, 1, 2)]


def spans() -> Iterator[tuple[AttentionSpan, dict[str, object] | None, dict[str, object]]]:
    """A span, and the options for torch 2.11 and for later versions: None is refused."""
    usual = 1 / math.sqrt(64)
    yield AttentionSpan(usual, None, False), {"is_causal": False}, {"scale": usual, "window_size": (-1, -1)}
    yield AttentionSpan(None, None, True), {"is_causal": True}, {"scale": None, "window_size": (-1, 0)}
    yield AttentionSpan(usual, 65, False), None, {"scale": usual, "window_size": (64, 64)}
    yield AttentionSpan(usual, 65, True), None, {"scale": usual, "window_size": (64, 0)}
    yield AttentionSpan(0.5, None, False), None, {"scale": 0.5, "window_size": (-1, -1)}


@pytest.mark.parametrize(("span", "old", "new"), list(spans()))
def test_the_fused_kernel_gets_only_the_options_it_has(
    span: AttentionSpan, old: dict[str, object] | None, new: dict[str, object]
) -> None:
    assert varlen_options({"scale", "window_size", "enable_gqa"}, span, 64) == new
    if old is None:
        with pytest.raises(NotImplementedError):
            varlen_options({"is_causal"}, span, 64)
    else:
        assert varlen_options({"is_causal"}, span, 64) == old
