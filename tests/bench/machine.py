"""On what a benchmark ran."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.embedding.kernels.processor import available_cpus
from pipeline.embedding.kernels.roofline import processor_name

_BF16_PAYS = 1.0
"""How many times faster than float32 bfloat16 must be for the targets of machines with bf16."""


def hardware(packages: Sequence[str]) -> dict[str, Any]:
    """Processor, memory, GPU, system, and the versions of these packages (None: not installed)."""
    native, gain = native_bf16(), bf16_gain()
    return {
        "cpu": processor_name("cpu"),
        "cores": available_cpus(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "native_bf16": native,
        "bf16_gain": gain,
        "usable_bf16": native and gain > _BF16_PAYS,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "packages": {name: _version(name) for name in packages},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def native_bf16() -> bool:
    """Whether this processor multiplies bfloat16 itself."""
    flags = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def bf16_gain() -> float:
    """How many times faster bfloat16 is than float32 in the largest product of MiniLM, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16) * 10:
        left, right = torch.ones(1024, 384, dtype=dtype), torch.ones(1536, 384, dtype=dtype)
        start = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best[dtype] = min(best.get(dtype, float("inf")), time.perf_counter() - start)
    torch.set_num_threads(threads)
    return round(best[torch.float32] / best[torch.bfloat16], 2)
