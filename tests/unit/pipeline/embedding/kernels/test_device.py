"""Precision by what the machine has, not by what it is called."""

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
