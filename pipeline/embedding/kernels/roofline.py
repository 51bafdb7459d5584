"""What a model costs and what a machine gives: operations of a forward pass, and the measured peak beside them."""

import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
"""Square products that come near a processor's peak: small enough for a core's cache, large enough to fill a GPU."""
_GPU_QUEUE = 8


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """Floating-point operations (a multiplication and an addition are two) of a transformer, without its head."""

    per_token: int
    """Of the matrix products with weights."""
    attention_width: int
    """Heads times their size."""
    windows: tuple[int | None, ...]
    """Of each layer: how many tokens one attends to; None: all of its text."""
    causal: bool

    def flops(self, lengths: NDArray[np.int64]) -> float:
        """Of one pass over texts of so many tokens each, special tokens included; padding is no work."""
        total = float(self.per_token) * float(lengths.sum())
        for window in self.windows:
            seen = lengths if window is None else np.minimum(lengths, window)
            pairs = float((lengths * seen).sum()) * (0.5 if self.causal else 1.0)
            total += 4.0 * self.attention_width * pairs  # scores, then their product with the values
        return total


def forward_cost(folder: Path) -> ForwardCost:
    """The cost of the model in a folder that `find_model` found and `check_model` accepted; reads no weights."""
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    return cost_of(config)


def cost_of(config: Any) -> ForwardCost:
    """The cost of the model that a transformers configuration describes; nothing is allocated for it."""
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    linear = [
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith("pooler.")  # that is once a text, and not used
    ]
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    # A window of w reaches w - 1 tokens to each side; looking back only, it holds w.
    reach = getattr(config, "sliding_window", None) or 0
    window = reach if causal else 2 * reach - 1
    windows = tuple(window if kind == "sliding_attention" and reach else None for kind in kinds)
    return ForwardCost(2 * sum(linear), width, windows, causal)


def matmul_peak(dtype: str, device: str, *, workers: int, threads: int, seconds: float) -> float:
    """Floating-point operations per second that products of square matrices reach here; takes about `seconds`.

    On a CPU `workers` Python threads multiply at a time, each with `threads` intra-op threads: the way in which
    forward passes run. The best of the sizes tried, so a ratio to it is no flattery.
    """
    sides = _SIDES[torch.device(device).type]
    kind = getattr(torch, dtype)
    each = seconds / len(sides)
    return max(_rate(side, kind, device, workers=workers, threads=threads, seconds=each) for side in sides)


def _rate(side: int, dtype: torch.dtype, device: str, *, workers: int, threads: int, seconds: float) -> float:
    gate = threading.Barrier(workers)
    rates: list[float] = []

    def run() -> None:
        left = torch.ones(side, side, dtype=dtype, device=device)
        right, out = left.clone(), torch.empty_like(left)
        if left.device.type == "cpu":
            torch.set_num_threads(threads)
        _multiply(left, right, out)
        gate.wait()
        count, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            count += _multiply(left, right, out)
        rates.append(count * 2.0 * side**3 / passed)

    before = torch.get_num_threads()
    started = [threading.Thread(target=run, name="matmul-peak") for _ in range(workers)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    torch.set_num_threads(before)  # a thread's number is what threads started later begin with
    if len(rates) < workers:
        raise RuntimeError(f"{workers - len(rates)} of {workers} threads ended early")
    return sum(rates)


@torch.inference_mode()
def _multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> int:
    """How many products were made, all of them finished on return."""
    if left.device.type == "cpu":
        torch.mm(left, right, out=out)
        return 1
    for _ in range(_GPU_QUEUE):
        torch.mm(left, right, out=out)
    torch.cuda.synchronize(left.device)
    return _GPU_QUEUE


def processor_name(device: str) -> str:
    """What the device is called by its maker, as far as it tells."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def gpu_memory(device: str) -> tuple[int, int]:
    """Bytes that torch holds on a GPU at the moment, and the most it held since `forget_gpu_peak`."""
    return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)


def forget_gpu_peak(device: str) -> None:
    """Count the peak of `gpu_memory` anew from here."""
    torch.cuda.reset_peak_memory_stats(device)
