"""The number of worker processes on this machine, and the settings that each one gets of its own."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from consumers.config import Settings
from pipeline.errors import UsageError

DEVICES = Path("/dev")
_GPU = re.compile(r"nvidia[0-9]+")
_ANY_GPU = ("auto", "cuda")
"""The values of `embedding.device` that name no single GPU."""
MOST_WORKERS = 256


def count_gpus(environment: Mapping[str, str] = os.environ, devices: Path = DEVICES) -> int:
    """The number of GPUs that CUDA shows to this process, without torch, whose import takes seconds and memory.

    CUDA_VISIBLE_DEVICES lists them by number or UUID; the first entry that names none ends the list.
    """
    present = sum(_GPU.fullmatch(path.name) is not None for path in devices.iterdir()) if devices.is_dir() else 0
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not present:
        return present
    count = 0
    for entry in visible.split(","):
        name = entry.strip()
        if not (name.startswith(("GPU-", "MIG-")) or (name.isdecimal() and int(name) < present)):
            break
        count += 1
    return count


def parse_workers(text: str) -> int | Literal["auto"]:
    """The value of `--workers`. Raises UsageError."""
    if text == "auto":
        return "auto"
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise UsageError(f"--workers {text}: write a number from 1 to {MOST_WORKERS}, or auto (one for each GPU)")
    return int(text)


def worker_count(workers: int | Literal["auto"], settings: Settings, gpus: int) -> int:
    """How many workers to start; `auto`: one for each GPU that `embedding.device` leaves open, on a CPU one."""
    if workers == "auto":
        return max(1, gpus) if settings.embedding.device in _ANY_GPU else 1
    return workers


def own_settings(settings: Settings, number: int, count: int, gpus: int) -> Sequence[str]:
    """What worker `number` of `count` gets as `section.key=value`.

    A GPU where `embedding.device` names none, and a static member id of its own: Kafka lets only one member have it.
    """
    own = []
    if gpus and settings.embedding.device in _ANY_GPU:
        own.append(f"embedding.device=cuda:{number % gpus}")
    member = settings.kafka.client_options.get("group_instance_id")
    if member is not None and count > 1:
        own.append(f"kafka.group_instance_id={member}-{number}")
    return own


def share_of(cores: int, count: int) -> int:
    """The cores of each of `count` workers."""
    return max(1, cores // count)
