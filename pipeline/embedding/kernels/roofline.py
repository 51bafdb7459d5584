"""The roofline: floating-point operations of a forward pass, and the measured peak of the machine."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from pipeline.embedding.kernels.processor import cpu_name

_SIDES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
"""Sides of square products that come near the peak: small enough for a core's cache, large enough to fill a GPU."""
_GPU_QUEUE = 8
"""Products queued on a GPU before each wait."""


@dataclass(frozen=True, slots=True)
class ForwardCost:
    """Floating-point operations (a multiply-add counts as two) of a transformer, without its head."""

    per_token: int
    """Operations per token in the products with weights."""
    attention_width: int
    """Number of heads times head size."""
    windows: tuple[int | None, ...]
    """Tokens that one token attends to, per layer; None: its whole text."""
    causal: bool

    def flops(self, lengths: NDArray[np.int64]) -> float:
        """Operations of one pass over texts of these lengths, special tokens included; padding does not count."""
        total = float(self.per_token) * float(lengths.sum())
        for window in self.windows:
            seen = lengths if window is None else np.minimum(lengths, window)
            pairs = float((lengths * seen).sum()) * (0.5 if self.causal else 1.0)
            total += 4.0 * self.attention_width * pairs  # scores, then their product with the values
        return total


def forward_cost(folder: Path) -> ForwardCost:
    """The cost of the model in a folder that `check_model` accepted; reads no weights."""
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    return cost_of(config)


def cost_of(config: Any) -> ForwardCost:
    """The cost of the model that a transformers configuration describes; allocates no weights."""
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    linear = [
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not name.startswith("pooler.")  # runs once per text, and its output is not used
    ]
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    causal = any(getattr(module, "is_causal", False) for module in model.modules())
    # A window of w reaches w - 1 tokens to each side; a causal one holds w tokens.
    reach = getattr(config, "sliding_window", None) or 0
    window = reach if causal else 2 * reach - 1
    windows = tuple(window if kind == "sliding_attention" and reach else None for kind in kinds)
    return ForwardCost(2 * sum(linear), width, windows, causal)


def matmul_peak(dtype: str, device: str, *, workers: int, threads: int, seconds: float) -> float:
    """Peak floating-point operations per second of square matrix products; takes about `seconds`.

    On a CPU `workers` Python threads multiply concurrently, each with `threads` intra-op threads, as forward passes
    do. The best of several sizes counts, so that a share of this peak is not flattered.
    """
    sides = _SIDES[torch.device(device).type]
    precision = getattr(torch, dtype)
    share = seconds / len(sides)
    return max(_rate(side, precision, device, workers=workers, threads=threads, seconds=share) for side in sides)


def _rate(side: int, dtype: torch.dtype, device: str, *, workers: int, threads: int, seconds: float) -> float:
    """Operations per second of products of this size, summed over the workers."""
    start_gate = threading.Barrier(workers)
    rates: list[float] = []

    def run() -> None:
        left = torch.ones(side, side, dtype=dtype, device=device)
        right, out = left.clone(), torch.empty_like(left)
        if left.device.type == "cpu":
            torch.set_num_threads(threads)
        _multiply(left, right, out)
        start_gate.wait()
        count, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            count += _multiply(left, right, out)
        rates.append(count * 2.0 * side**3 / elapsed)

    before = torch.get_num_threads()
    pool = [threading.Thread(target=run, name="matmul-peak") for _ in range(workers)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    torch.set_num_threads(before)  # new threads inherit the number set last
    if len(rates) < workers:
        raise RuntimeError(f"{workers - len(rates)} of {workers} threads ended early")
    return sum(rates)


@torch.inference_mode()
def _multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> int:
    """Multiply once, on a GPU `_GPU_QUEUE` times; returns the number of finished products."""
    if left.device.type == "cpu":
        torch.mm(left, right, out=out)
        return 1
    for _ in range(_GPU_QUEUE):
        torch.mm(left, right, out=out)
    torch.cuda.synchronize(left.device)
    return _GPU_QUEUE


def processor_name(device: str) -> str:
    """The model name of the processor or GPU; the architecture where the system has no name."""
    return cpu_name() if device == "cpu" else torch.cuda.get_device_name(device)


def gpu_memory(device: str) -> tuple[int, int]:
    """Bytes that torch holds on a GPU now, and the peak since `forget_gpu_peak`."""
    return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)


def forget_gpu_peak(device: str) -> None:
    """Reset the peak of `gpu_memory`."""
    torch.cuda.reset_peak_memory_stats(device)
