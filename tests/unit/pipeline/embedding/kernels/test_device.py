"""Precision and cores by what the machine has, not by what it is called."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipeline.embedding.kernels import device

CPU = torch.device("cpu")


def test_bfloat16_needs_native_support_and_a_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {}
    for native in (False, True):
        for gain in (0.5, 2.0):
            monkeypatch.setattr(device, "_has_native_bf16", lambda native=native: native)
            monkeypatch.setattr(device, "_bf16_gain", lambda gain=gain: gain)
            chosen[native, gain] = device.resolve_dtype("auto", CPU)
    assert [case for case, dtype in chosen.items() if dtype == torch.bfloat16] == [(True, 2.0)]
    assert set(chosen.values()) == {torch.bfloat16, torch.float32}


def test_a_torch_without_the_checks_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not device._has_native_bf16()


def test_the_gain_is_measured_on_this_machine() -> None:
    assert 0.01 < device._bf16_gain() < 100


def test_there_is_a_core_and_no_more_than_the_machine_has() -> None:
    assert 1 <= device.available_cpus() <= torch.multiprocessing.cpu_count()


@pytest.fixture
def matmul() -> Iterator[Any]:
    """torch's switch, as a new process finds it; afterwards as it was."""
    switch: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = switch.fp32_precision
    switch.fp32_precision = "none"
    device.enable_onednn_float32.cache_clear()
    yield switch
    device.enable_onednn_float32.cache_clear()
    switch.fp32_precision = before


@pytest.mark.parametrize(("seconds", "used"), [([2.0, 1.0], True), ([1.0, 1.0], False), ([1.0, 2.0], False)])
def test_onednn_makes_float32_products_where_it_is_faster(
    seconds: list[float], used: bool, matmul: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_MAX_RELATIVE_ERROR", 1.0)  # also on a processor with AMX
    monkeypatch.setattr(device, "_best_seconds", lambda _: seconds)
    assert device.enable_onednn_float32() is used
    assert (matmul.fp32_precision == "bf16") is used


def test_products_that_round_are_not_used_however_fast(matmul: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    linear = torch.nn.functional.linear

    def rounding(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype == torch.float32 and matmul.fp32_precision == "bf16":
            left = left.bfloat16().float()
        return linear(left, right)

    monkeypatch.setattr(torch.nn.functional, "linear", rounding)
    monkeypatch.setattr(device, "_best_seconds", lambda _: [9.0, 1.0])
    assert device.enable_onednn_float32() is False
    assert matmul.fp32_precision == "none"


def test_float32_stays_exact_with_either_library(matmul: Any) -> None:
    device.enable_onednn_float32()
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(384, 384, generator=generator) for _ in range(2))
    exact = left.double() @ right.double()
    assert ((left @ right).double() - exact).norm() <= 2e-6 * exact.norm()
