"""Attention by plain matrix products is attention, within what bfloat16 rounds."""

import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from pipeline.embedding.kernels import matmul_attention as kernel
from pipeline.embedding.kernels import varlen_attention
from pipeline.embedding.kernels.matmul_attention import matmul_attention
from pipeline.embedding.kernels.varlen_attention import attend
from tests.support.examples import examples

Lengths = Sequence[int]
ROUNDING = 0.02
"""Of a result's length; torch's own kernel is off by up to 0.008."""


def random_rows(lengths: Lengths, heads: int, size: int, *, spread: float = 1.5, seed: int = 1) -> torch.Tensor:
    """Query, key and value of concatenated texts: (3, tokens, heads, size)."""
    torch.manual_seed(seed)
    rows = torch.randn(3, sum(lengths), heads, size)
    rows[:2] *= spread
    return rows.bfloat16()


class Fallback:
    """The fallback; records the lengths of the texts it was called with."""

    def __init__(self, scale: float | None = None) -> None:
        self.scale = scale
        self.calls: list[list[int]] = []

    def __call__(self, rows: Sequence[torch.Tensor], lengths: Lengths) -> torch.Tensor:
        self.calls.append(list(lengths))
        return exact(rows, lengths, self.scale).to(rows[2].dtype)


def exact(rows: Sequence[torch.Tensor], lengths: Lengths, scale: float | None) -> torch.Tensor:
    """Exact attention, one text at a time."""
    results = []
    for end, length in zip(accumulate(lengths), lengths, strict=True):
        query, key, value = (row[end - length : end].transpose(0, 1).double() for row in rows)
        results.append(scaled_dot_product_attention(query, key, value, scale=scale).transpose(0, 1))
    return torch.cat(results)


def off(
    rows: Sequence[torch.Tensor], lengths: Lengths, scale: float | None = None, fallback: Fallback | None = None
) -> float:
    """How far the text that is farthest is from its exact result, as a share of that, or of values that cancel."""
    actual = matmul_attention(rows, lengths, scale, fallback or Fallback(scale)).double()
    expected, values = exact(rows, lengths, scale), rows[2].double()
    texts = [slice(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]
    return max(
        float((actual[text] - expected[text]).norm() / max(expected[text].norm(), values[text].norm() / 4))
        for text in texts
    )


@examples(0.6)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 70), st.just(16), st.just(33)), min_size=1, max_size=20),
    heads=st.integers(1, 5),
    size=st.sampled_from([1, 8, 32, 33]),
    scale=st.sampled_from([None, 0.1]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_any_lengths_give_the_exact_result_rounded(
    lengths: list[int], heads: int, size: int, scale: float | None, dtype: torch.dtype
) -> None:
    rows = random_rows(lengths, heads, size).to(dtype)
    assert off(rows.unbind(), lengths, scale) <= (ROUNDING if dtype == torch.bfloat16 else 1e-5)


def test_values_may_have_another_size_and_memory_order() -> None:
    query, key, _ = random_rows([64, 50], 4, 8)
    value = torch.randn(4, 114, 12).bfloat16().transpose(0, 1)
    assert off((query, key, value), [64, 50]) <= ROUNDING


@pytest.mark.parametrize("common", [2.0, 4.0, 6.0, -6.0])
def test_what_all_keys_have_in_common_costs_no_accuracy(common: float) -> None:
    """Scores of a few hundred would be rounded to whole numbers."""
    query, key, value = random_rows([64, 60], 2, 32, spread=0.5)
    fallback = Fallback()
    assert off((query + 6, key + common, value), [64, 60], None, fallback) <= ROUNDING
    assert fallback.calls == []


def test_what_the_keys_of_one_text_have_in_common_is_not_that_of_another() -> None:
    query, key, value = random_rows([64, 60], 2, 32, spread=0.5)
    key[:64] += 2
    key[64:] -= 2
    assert off((query + 6, key, value), [64, 60]) <= ROUNDING


@pytest.mark.parametrize("scores", [1, 40, 16 * 16, 3 * 48 * 48])
@pytest.mark.parametrize("lengths", [[100], [47, 47, 47], [48, 47, 46, 16, 16, 16], [300]])
def test_scores_are_taken_a_part_at_a_time(scores: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_MAX_SCORES", scores)
    monkeypatch.setattr(kernel, "_MIN_TOKENS", 0)
    monkeypatch.setattr(kernel, "_MAX_BUFFER", scores)
    monkeypatch.setattr(kernel, "_BUFFERS", kernel.ScratchBuffers())
    fallback = Fallback()
    assert off(random_rows(lengths, 4, 8).unbind(), lengths, None, fallback) <= ROUNDING
    assert fallback.calls == []


def test_few_tokens_are_left_to_the_fallback() -> None:
    for lengths, calls in (([30, 9, 8], [[30, 9, 8]]), ([31, 9, 8], [])):
        fallback = Fallback()
        assert off(random_rows(lengths, 2, 8).unbind(), lengths, None, fallback) <= ROUNDING
        assert fallback.calls == calls


@pytest.mark.parametrize(("size", "calls"), [(1, [[33, 33]]), (7, [[33, 33]]), (8, [])])
def test_narrow_heads_are_left_to_the_fallback(size: int, calls: list[list[int]]) -> None:
    """Rounded scores are too coarse where few numbers are summed up."""
    fallback = Fallback()
    assert off(random_rows([33, 33], 1, size).unbind(), [33, 33], None, fallback) <= ROUNDING
    assert fallback.calls == calls


@pytest.mark.parametrize("spread", [20.0, 1e3])
def test_what_exponentials_do_not_hold_is_done_by_the_fallback(spread: float) -> None:
    lengths, fallback = [70, 40, 38, 33, 20, 20, 20], Fallback()
    rows = random_rows(lengths, 2, 32)
    rows[:2, 110:148] *= spread  # the third text
    assert off(rows.unbind(), lengths, None, fallback) <= ROUNDING
    assert fallback.calls == [lengths]


@pytest.mark.parametrize("in_the_other_text", [0.0, torch.nan])
def test_values_too_large_to_be_summed_up_are_left_to_the_fallback(in_the_other_text: float) -> None:
    fallback = Fallback()
    rows = random_rows([64, 63], 1, 32)
    rows[2, :64] *= 1e36
    rows[2, 64:] += in_the_other_text
    actual = matmul_attention(rows.unbind(), [64, 63], None, fallback)
    assert fallback.calls == [[64, 63]]
    assert actual[:64].isfinite().all()


def test_not_a_number_stays_in_its_text() -> None:
    rows = random_rows([40, 40], 2, 8)
    rows[0, 40:] = torch.nan
    actual = matmul_attention(rows.unbind(), [40, 40], None, Fallback())
    assert actual[:40].isfinite().all()
    assert actual[40:].isnan().all()


def test_products_are_made_where_onednn_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [90, 64, 64, 64, 49]
    calls: list[torch.dtype] = []

    def counted(rows: Sequence[torch.Tensor], *others: Any) -> torch.Tensor:
        calls.append(rows[0].dtype)
        return matmul_attention(rows, *others)

    monkeypatch.setattr(varlen_attention, "matmul_attention", counted)
    monkeypatch.setattr(varlen_attention, "uses_onednn", lambda dtype: dtype == torch.bfloat16)
    rows = random_rows(lengths, 4, 8)
    offsets = torch.tensor([0, *accumulate(lengths)])
    where: dict[str, Any] = {"host_offsets": offsets, "cu_seq_lens_q": offsets}
    query, key, value = rows.transpose(1, 2)[:, None]
    actual, _ = attend(torch.nn.Identity(), query, key, value, None, **where)
    assert calls == [torch.bfloat16]
    expected, _ = attend(torch.nn.Identity(), query.float(), key.float(), value.float(), None, **where)
    assert (actual - expected).norm() <= ROUNDING * expected.norm()
    attend(torch.nn.Identity(), query, key[:, :2], value[:, :2], None, **where)
    attend(torch.nn.Identity(), query, key, value, None, is_causal=True, **where)
    attend(torch.nn.Identity(), query, key, value, None, sliding_window=89, **where)
    assert len(calls) == 1
    attend(torch.nn.Identity(), query, key, value, None, sliding_window=90, **where)
    assert len(calls) == 2


def test_threads_do_not_share_their_buffers() -> None:
    """Concurrent threads compute their own results."""
    distances: list[float] = []
    gate = threading.Barrier(4)

    def run(seed: int) -> None:
        rows = random_rows([50, 50], 4, 16, seed=seed)
        gate.wait()
        distances.extend(off(rows.unbind(), [50, 50]) for _ in range(50))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(distances) == 200
    assert max(distances) <= ROUNDING
