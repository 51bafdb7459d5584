"""Device, precision and CPU cores of a model, and the library that makes its matrix products."""

import os
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from pipeline.embedding.kernels.cpu_request import requested_cpus
from pipeline.errors import UsageError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MIN_BF16_GAIN = 1.2
"""Speed-up that bfloat16 products must bring: rounding has a price, and without native support they are slower."""
SHAPE_STEP = 16
"""Token counts are rounded up to multiples of it for oneDNN, which compiles every new shape (0.5 ms, 0.5 MB each)."""
_LEFT_SHAPE, _RIGHT_SHAPE = (256, 384), (1536, 384)
"""Factors of a product of the size that a small model makes."""
_ONEDNN_PRECISION, _MIN_ONEDNN_GAIN = "bf16", 1.2
_MAX_RELATIVE_ERROR = 2e-6
"""Distance to the exact product, relative to its norm: float32 is off by 3e-7, a product that rounds by 1e-3."""
_FREE_MEMORY_SHARE = 0.9
"""Share of a GPU's free memory that this process may use; the rest is for libraries that allocate past torch."""


def resolve_device(device: str) -> torch.device:
    """The device for a setting auto | cpu | cuda | cuda:N; raises `UsageError` if this machine does not have it."""
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
    """The precision for a setting; `auto` is the fastest that keeps the ranking, never int8."""
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise UsageError(f"embedding.dtype is {dtype!r}: write auto, {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    return torch.bfloat16 if _has_native_bf16() and _bf16_gain() >= _MIN_BF16_GAIN else torch.float32


def cap_memory(device: torch.device) -> None:
    """Limit this process to most of the GPU memory that is free now, so that its neighbours keep theirs."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        torch.cuda.set_per_process_memory_fraction(_FREE_MEMORY_SHARE * free / total, device)


def available_cpus() -> int:
    """Cores this process may use: at most its affinity, and its container's quota, or without one its CPU request."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        cores = min(cores, requested_cpus() or cores)
    return max(1, cores)


@cache
def _has_native_bf16() -> bool:
    # torch has no public name for these; a torch that drops them gets the slower, safe answer.
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def _bf16_gain() -> float:
    """Speed-up of bfloat16 over float32 in a product of the size a small model makes."""
    products = []
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(_LEFT_SHAPE, dtype=dtype), torch.ones(_RIGHT_SHAPE, dtype=dtype)
        products.append(partial(torch.nn.functional.linear, left, right))
    float32_s, bfloat16_s = _best_seconds(products)
    return float32_s / bfloat16_s


@cache
def enable_onednn_float32() -> bool:
    """Switch this process's float32 products to oneDNN if it is as exact as MKL and faster; returns whether it did.

    MKL uses half of AVX-512 on processors that are not Intel's. torch uses oneDNN for float32 only where rounding
    within products is allowed; a processor without AMX does not round then, which is measured here, not assumed.
    (`torch.get_float32_matmul_precision`, the older switch, raises afterwards.)
    """
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(shape, generator=generator) for shape in (_LEFT_SHAPE, _RIGHT_SHAPE))

    def product(precision: str) -> torch.Tensor:
        matmul.fp32_precision = precision
        return torch.nn.functional.linear(left, right)

    exact = torch.nn.functional.linear(left.double(), right.double())
    if float((product(_ONEDNN_PRECISION) - exact).norm() / exact.norm()) <= _MAX_RELATIVE_ERROR:
        if before == _ONEDNN_PRECISION:
            return True
        mkl_s, onednn_s = _best_seconds([partial(product, before), partial(product, _ONEDNN_PRECISION)])
        if mkl_s >= _MIN_ONEDNN_GAIN * onednn_s:
            matmul.fp32_precision = _ONEDNN_PRECISION
            return True
    matmul.fp32_precision = before
    return False


def uses_onednn(dtype: torch.dtype) -> bool:
    """Whether CPU products of this precision are made by oneDNN, which compiles every new shape."""
    if dtype == torch.float32:
        return torch.backends.mkldnn.matmul.fp32_precision == _ONEDNN_PRECISION  # type: ignore[attr-defined, no-any-return]
    return dtype == torch.bfloat16 and _has_native_bf16()


def _best_seconds(products: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds of each product on one thread: on a busy machine several threads would time their waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = [float("inf")] * len(products)
    for _ in range(15):  # in turns, and the best of many: most disturbances are over after one
        for index, product in enumerate(products):
            start = time.perf_counter()
            product()
            best[index] = min(best[index], time.perf_counter() - start)
    torch.set_num_threads(threads)
    return best
