"""Device and precision of a model that torch runs."""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch

from pipeline.errors import UsageError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MIN_BF16_GAIN = 1.2
"""Speed-up that bfloat16 products must bring: rounding has a price, and without native support they are slower."""
_LEFT_SHAPE, _RIGHT_SHAPE = (256, 384), (1536, 384)
"""Factors of a product of the size that a small model makes."""
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
