"""On what a benchmark ran."""

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from consumers.kafka import KafkaSettings, broker_info
from pipeline.embedding.device import available_cpus
from pipeline.store import connect
from tests.bench.stage import Stage

_PACKAGES = ("milvus-stream", "torch", "transformers", "sentence-transformers", "kafka-python", "pymilvus", "numpy")


def describe(stage: Stage) -> dict[str, Any]:
    """Hardware, versions and servers."""
    api = connect(stage.milvus)
    try:
        kind = "Lite" if api.server.lite else "server"
        milvus = f"{kind} {'.'.join(map(str, api.server.number))}"
    finally:
        api.close()
    return {
        "cpu": _cpu_name(),
        "cores": available_cpus(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "native_bf16": native_bf16(),
        "bf16_gain": bf16_gain(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "packages": {name: version(name) for name in _PACKAGES},
        "kafka": broker_info(KafkaSettings(stage.kafka, ("none",), "bench")).version,
        "milvus": milvus,
        "model": dict(stage.model) if stage.model else None,
    }


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


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
