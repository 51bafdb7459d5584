"""Where a model runs, in which precision, and with how many threads."""

import os
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UsageError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_COMPARED = (torch.float32, torch.bfloat16)
_BF16_GAIN = 1.2
"""How many times faster bfloat16 products must be: rounding is not free, and without native support they are slower."""
SHAPE_STEP = 16
"""Numbers of tokens are made multiples of it where oneDNN multiplies: for every new one it makes code, for half a
millisecond and half a megabyte a product."""
_LEFT, _RIGHT = (256, 384), (1536, 384)
"""Factors of a product of the size that a small model makes."""
_ONEDNN, _ONEDNN_GAIN = "bf16", 1.2
_EXACT = 2e-6
"""Distance to the exact product, as a share of it: float32 is off by 3e-7, a product that rounds by 1e-3."""
_SHARE_OF_FREE = 0.9
"""Of the free memory of a GPU; the rest is for what libraries allocate beside torch."""


def resolve_device(device: str) -> torch.device:
    """The device for a setting auto | cpu | cuda | cuda:N; raises `UsageError` if it is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    name, _, number = device.partition(":")
    if name not in ("cpu", "cuda") or (number and not number.isdecimal()) or (name == "cpu" and number):
        raise UsageError(f"embedding.device is {device!r}: write auto, cpu, cuda or cuda:N")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(
            f"embedding.device is {device}, but torch {torch.__version__} finds no CUDA device: check the driver and "
            "that the CUDA build of torch is installed, or write auto"
        )
    index = int(number or 0)
    if index >= torch.cuda.device_count():
        raise UsageError(f"embedding.device is {device}, but there are {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", index)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The precision for a setting; `auto` is the fastest that keeps the ranking: never int8."""
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise UsageError(f"embedding.dtype is {dtype!r}: write auto, {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if _native_bf16() and _bf16_gain() >= _BF16_GAIN else torch.float32


def cap_memory(device: torch.device) -> None:
    """Let this process have most of what is free on the GPU now, and never what its neighbours hold."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(_SHARE_OF_FREE * free / total, device)


def available_cpus() -> int:
    """Cores this process may use: its affinity, and the quota of its container (which `os.cpu_count` ignores)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        pass
    return max(1, cores)


@cache
def _native_bf16() -> bool:
    # torch has no public name for these; a torch that drops them gets the slower, safe answer.
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def _bf16_gain() -> float:
    """How many times faster bfloat16 is than float32 in a product of the size a small model makes."""
    pairs = {dtype: (torch.ones(_LEFT, dtype=dtype), torch.ones(_RIGHT, dtype=dtype)) for dtype in _COMPARED}
    float32, bfloat16 = _least_seconds([partial(torch.nn.functional.linear, *pairs[dtype]) for dtype in _COMPARED])
    return float32 / bfloat16


@cache
def float32_by_onednn() -> bool:
    """Have float32 products made by oneDNN in this process, if it is faster at it than MKL and as exact; whether it is.

    MKL leaves half of what AVX-512 offers unused on processors that Intel did not make. torch hands float32 over to
    oneDNN only where rounding within products is allowed; a processor without AMX does not make use of that, which is
    tried here, not assumed. (`torch.get_float32_matmul_precision`, the older switch, raises afterwards.)
    """
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(shape, generator=generator) for shape in (_LEFT, _RIGHT))

    def product(precision: str) -> torch.Tensor:
        matmul.fp32_precision = precision
        return torch.nn.functional.linear(left, right)

    exact = torch.nn.functional.linear(left.double(), right.double())
    if float((product(_ONEDNN) - exact).norm() / exact.norm()) <= _EXACT:
        if before == _ONEDNN:
            return True
        usual, other = _least_seconds([partial(product, before), partial(product, _ONEDNN)])
        if usual >= _ONEDNN_GAIN * other:
            matmul.fp32_precision = _ONEDNN
            return True
    matmul.fp32_precision = before
    return False


def multiplied_by_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN, which makes code for every shape it meets, makes the products of this precision on a CPU."""
    if dtype == torch.float32:
        return torch.backends.mkldnn.matmul.fp32_precision == _ONEDNN  # type: ignore[attr-defined, no-any-return]
    return dtype == torch.bfloat16 and _native_bf16()


def _least_seconds(products: Sequence[Callable[[], object]]) -> list[float]:
    """Of each, on one thread: several would wait for each other where the machine is busy, and time that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    least = [float("inf")] * len(products)
    for _ in range(15):  # in turns and the best of many: what disturbs is mostly over after one
        for index, product in enumerate(products):
            start = time.perf_counter()
            product()
            least[index] = min(least[index], time.perf_counter() - start)
    torch.set_num_threads(threads)
    return least
