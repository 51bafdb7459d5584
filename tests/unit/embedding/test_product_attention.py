"""Attention by plain matrix products is attention, within what bfloat16 rounds."""

import threading
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from pipeline.embedding import flat_attention, product_attention
from pipeline.embedding.flat_attention import attend
from pipeline.embedding.product_attention import by_products

ROUNDING = 0.02
"""Of a result's length; torch's own kernel is off by up to 0.008."""


def made(lengths: Sequence[int], heads: int, size: int, *, spread: float = 1.5, seed: int = 1) -> torch.Tensor:
    """Query, key and value of texts one behind the other: (3, tokens, heads, size)."""
    torch.manual_seed(seed)
    rows = torch.randn(3, sum(lengths), heads, size)
    rows[:2] *= spread
    return rows.bfloat16()


def off(rows: torch.Tensor, lengths: Sequence[int], scale: float | None = None) -> float:
    """How far the text that is farthest is from its exact result, as a share of that, or of values that cancel."""
    query, key, value = rows
    found = by_products((query, key, value), lengths, scale)
    distances = []
    for end, length in zip(accumulate(lengths), lengths, strict=True):
        part = found[end - length : end].double()
        q, k, v = rows[:, end - length : end].double().transpose(1, 2)
        exact = scaled_dot_product_attention(q, k, v, scale=scale).transpose(0, 1)
        distances.append(float((part - exact).norm() / max(exact.norm(), v.norm() / 4)))
    return max(distances)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens in each call of torch's kernel."""
    calls: list[int] = []

    def counted(query: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        calls.append(query.shape[-2])
        return scaled_dot_product_attention(query, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return calls


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 70), st.just(16), st.just(33)), min_size=1, max_size=20),
    heads=st.integers(1, 5),
    size=st.sampled_from([1, 8, 32, 33]),
    scale=st.sampled_from([None, 0.1]),
)
def test_any_lengths_give_the_exact_result_rounded(
    lengths: list[int], heads: int, size: int, scale: float | None
) -> None:
    lengths.sort(reverse=True)
    assert off(made(lengths, heads, size), lengths, scale) <= ROUNDING


@pytest.mark.parametrize("scores", [1, 40, 16 * 16, 3 * 48 * 48])
@pytest.mark.parametrize("lengths", [[100], [47, 47, 47], [48, 47, 46, 16, 16, 16], [300]])
def test_scores_are_taken_a_part_at_a_time(
    scores: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch, kernel: list[int]
) -> None:
    monkeypatch.setattr(product_attention, "_SCORES", scores)
    monkeypatch.setattr(product_attention, "_LEAST_TOKENS", 0)
    product_attention._groups.cache_clear()
    try:
        assert off(made(lengths, 4, 8), lengths) <= ROUNDING
    finally:
        product_attention._groups.cache_clear()
    assert kernel == []


def test_few_tokens_are_left_to_the_kernel(kernel: list[int]) -> None:
    lengths = [64, 30, 9, 8]
    assert off(made(lengths, 2, 8), lengths) <= ROUNDING
    assert kernel == [30, 9, 8]


@pytest.mark.parametrize("spread", [20.0, 1e3])
def test_what_exponentials_do_not_hold_is_done_by_the_kernel(spread: float, kernel: list[int]) -> None:
    lengths = [70, 40, 38, 33, 20, 20, 20]
    rows = made(lengths, 2, 32)
    rows[:2, 110:148] *= spread  # the third text
    assert off(rows, lengths) <= ROUNDING
    assert kernel == [40, 38, 33]  # it, and its neighbours, which are taken together with it


def test_scores_that_are_all_far_below_zero_lose_nothing(kernel: list[int]) -> None:
    rows = made([64], 2, 32, spread=0.5)
    rows[0] += 10
    rows[1] -= 10
    assert off(rows, [64]) <= ROUNDING
    assert kernel == [64]


def test_values_too_large_to_be_summed_up_are_left_to_the_kernel(kernel: list[int]) -> None:
    rows = made([64], 1, 32)
    rows[2] *= 1e36
    assert off(rows, [64]) <= ROUNDING
    assert kernel == [64]


def test_not_a_number_stays_in_its_text() -> None:
    rows = made([40, 40], 2, 8)
    rows[0, 40:] = torch.nan
    query, key, value = rows
    found = by_products((query, key, value), [40, 40], None)
    assert found[:40].isfinite().all()
    assert found[40:].isnan().all()


def test_a_batch_in_bfloat16_is_done_so_and_another_is_not(kernel: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [90, 64, 64, 64, 49]
    asked: list[Sequence[int]] = []

    def counted(rows: Sequence[torch.Tensor], lengths: Sequence[int], scale: float | None) -> torch.Tensor:
        asked.append(lengths)
        return by_products(rows, lengths, scale)

    monkeypatch.setattr(flat_attention, "by_products", counted)
    rows = made(lengths, 4, 8)
    offsets = torch.tensor([0, 90, 154, 218, 282, 331])
    where: dict[str, Any] = {"host_offsets": offsets, "cu_seq_lens_q": offsets}
    query, key, value = rows.transpose(1, 2)[:, None]
    found, _ = attend(torch.nn.Identity(), query, key, value, None, **where)
    exact, _ = attend(torch.nn.Identity(), query.float(), key.float(), value.float(), None, **where)
    assert asked == [lengths]
    assert kernel == []
    assert (found - exact).norm() <= ROUNDING * exact.norm()
    attend(torch.nn.Identity(), query, key[:, :2], value[:, :2], None, **where)
    attend(torch.nn.Identity(), query, key, value, None, is_causal=True, **where)
    attend(torch.nn.Identity(), query, key, value, None, sliding_window=89, **where)
    assert len(asked) == 1
    attend(torch.nn.Identity(), query, key, value, None, sliding_window=90, **where)
    assert len(asked) == 2


def test_threads_do_not_share_their_room() -> None:
    """Each works on its own numbers while the others do."""
    distances: list[float] = []
    gate = threading.Barrier(4)

    def run(seed: int) -> None:
        rows = made([50, 50], 4, 16, seed=seed)
        gate.wait()
        distances.extend(off(rows, [50, 50]) for _ in range(50))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(distances) == 200
    assert max(distances) <= ROUNDING
