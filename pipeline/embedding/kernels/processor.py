"""The processor and whether there may be a GPU, read without torch."""

import os
import platform
from pathlib import Path

from pipeline.embedding.kernels.cpu_request import requested_cpus

_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""Of the drivers of GPUs that torch may run on: NVIDIA's, Windows' for Linux, AMD's."""


def available_cpus() -> int:
    """Cores this process may use: at most its affinity, and its container's quota, or without one its CPU request."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        cores = min(cores, requested_cpus() or cores)
    return max(1, cores)


def cpu_name() -> str:
    """The model name of the processor; the architecture where the system has no name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def may_have_gpu() -> bool:
    """Whether a GPU's driver is here: only then is torch imported, which takes seconds, to find out more."""
    return any(Path(path).exists() for path in _GPU_FILES)
