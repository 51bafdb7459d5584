"""Attention by plain matrix products is attention, within what bfloat16 rounds."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from pipeline.embedding import product_attention
from pipeline.embedding.flat_attention import Sight, attend, runs
from pipeline.embedding.product_attention import by_products

ROUNDING = 0.02
"""Of a result's length; torch's own kernel is off by up to 0.008."""


def made(texts: int, heads: int, length: int, size: int, *, spread: float = 1.5, seed: int = 1) -> torch.Tensor:
    """Query, key and value as views of rows of a flat batch: (3, texts, heads, length, size)."""
    torch.manual_seed(seed)
    rows = torch.randn(3, texts * length, heads, size)
    rows[:2] *= spread
    return rows.bfloat16().view(3, texts, length, heads, size).transpose(2, 3)


def off(rows: torch.Tensor, scale: float | None = None) -> float:
    """How far the result is from the exact one, as a share of its length."""
    texts, heads, length, size = rows.shape[1:]
    target = torch.full((texts, length, heads, size), torch.nan, dtype=torch.bfloat16).transpose(1, 2)
    query, key, value = rows
    by_products(query, key, value, target, scale)
    exact = scaled_dot_product_attention(query.double(), key.double(), value.double(), scale=scale)
    return float((target.double() - exact).norm() / exact.norm())


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The texts of each call of torch's kernel."""
    calls: list[int] = []

    def counted(query: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        calls.append(len(query))
        return scaled_dot_product_attention(query, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return calls


@settings(max_examples=40, deadline=None)
@given(
    texts=st.integers(1, 20),
    heads=st.integers(1, 5),
    length=st.integers(1, 70),
    size=st.sampled_from([1, 8, 32, 33]),
    scale=st.sampled_from([None, 0.1]),
)
def test_any_shape_gives_the_exact_result_rounded(
    texts: int, heads: int, length: int, size: int, scale: float | None
) -> None:
    assert off(made(texts, heads, length, size), scale) <= ROUNDING


@pytest.mark.parametrize("scores", [1, 40, 16 * 16, 3 * 48 * 48])
@pytest.mark.parametrize(("texts", "length"), [(1, 100), (3, 47), (7, 16)])
def test_scores_are_taken_a_part_at_a_time(
    scores: int, texts: int, length: int, kernel: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product_attention, "_SCORES", scores)
    assert off(made(texts, 4, length, 8)) <= ROUNDING
    assert kernel == []


@pytest.mark.parametrize("spread", [20.0, 1e3])
def test_what_exponentials_do_not_hold_is_done_by_the_kernel(spread: float, kernel: list[int]) -> None:
    rows = made(3, 2, 40, 32)
    rows[:2, 1] *= spread  # the text in the middle
    assert off(rows) <= ROUNDING
    assert kernel == [2]  # and its neighbour, which is taken together with it


def test_scores_that_are_all_far_below_zero_lose_nothing(kernel: list[int]) -> None:
    rows = made(1, 2, 64, 32, spread=0.5)
    rows[0] += 10
    rows[1] -= 10
    assert off(rows) <= ROUNDING
    assert kernel == [1]


def test_values_too_large_to_be_summed_up_are_left_to_the_kernel(kernel: list[int]) -> None:
    rows = made(1, 1, 64, 32)
    rows[2] *= 1e36
    assert off(rows) <= ROUNDING
    assert kernel == [1]


def test_not_a_number_stays_in_its_text() -> None:
    rows = made(2, 2, 40, 8)
    rows[0, 1] = torch.nan
    target = torch.zeros(2, 2, 40, 8, dtype=torch.bfloat16)
    query, key, value = rows
    by_products(query, key, value, target, None)
    assert target[0].isfinite().all()
    assert target[1].isnan().all()


def test_a_batch_in_bfloat16_is_attended_to_text_by_text(kernel: list[int]) -> None:
    lengths = [90, 64, 64, 64, 3]
    torch.manual_seed(2)
    query, key, value = torch.randn(3, 1, 4, sum(lengths), 8).bfloat16()
    offsets = torch.tensor([0, 90, 154, 218, 282, 285])
    found, _ = attend(torch.nn.Identity(), query, key, value, None, host_offsets=offsets, cu_seq_lens_q=offsets)
    assert kernel == [1]  # the text that is too short to be worth more
    for start, length, count in runs(lengths):
        for at in range(start, start + length * count, length):
            q, k, v = (rows[:, :, at : at + length].double() for rows in (query, key, value))
            exact = scaled_dot_product_attention(q, k, v).transpose(1, 2)
            assert (found[:, at : at + length].double() - exact).norm() <= ROUNDING * exact.norm()


def test_threads_do_not_share_their_room() -> None:
    """Each works on its own numbers while the others do."""
    distances: list[float] = []
    gate = threading.Barrier(4)

    def run(seed: int) -> None:
        rows = made(2, 4, 50, 16, seed=seed)
        gate.wait()
        distances.extend(off(rows) for _ in range(50))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(distances) == 200
    assert max(distances) <= ROUNDING


@pytest.mark.parametrize(
    ("sight", "length", "all_of_it"),
    [
        (Sight(None, None, False), 9, True),
        (Sight(None, 9, False), 9, True),
        (Sight(None, 8, False), 9, False),
        (Sight(None, None, True), 9, False),
    ],
)
def test_a_window_or_an_order_keeps_a_token_from_seeing_all(sight: Sight, length: int, all_of_it: bool) -> None:
    assert sight.sees_all_of(length) is all_of_it
