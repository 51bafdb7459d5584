"""Transfers between host memory and a device: batches up, vectors down, concurrently with the forward passes."""

import ctypes
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.embedding.engine.passes import ReadyVectors, VectorsFuture

_TRIM_TOKENS = 8192
"""Tokens after which freed host memory is returned to the operating system."""


class Transfer(Protocol):
    """Copies to and from one device. `upload`, `download` and `recover` are called by threads that run passes."""

    def upload(self, arrays: Mapping[str, NDArray[np.int64]]) -> Mapping[str, torch.Tensor]:
        """Copy the arrays to the device, ready for the next forward pass of this thread."""

    def download(self, vectors: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> VectorsFuture:
        """Start copying the vectors that a forward pass computed from `inputs`; does not block."""

    def recover(self) -> None:
        """After memory ran out: wait for running work and release unused memory."""


class HostTransfer:
    """The transfer of a model on the CPU: nothing is copied.

    The C library keeps the memory that passes freed, per thread and in fragments that no longer fit. Returning it
    regularly cuts the process's memory by a third and costs some 3 % of the time.
    """

    def __init__(self) -> None:
        self._malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._tokens = 0

    def upload(self, arrays: Mapping[str, NDArray[np.int64]]) -> Mapping[str, torch.Tensor]:
        """The arrays as tensors on the same memory."""
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def download(self, vectors: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> VectorsFuture:
        """The vectors themselves, without a copy."""
        self._tokens += inputs["input_ids"].numel()  # threads may lose an increment: only the trim interval changes
        if self._tokens >= _TRIM_TOKENS:
            self.recover()
        return ReadyVectors(vectors.numpy())

    def recover(self) -> None:
        """Return freed memory to the operating system; only glibc needs this call."""
        self._tokens = 0
        if self._malloc_trim is not None:
            self._malloc_trim(0)


class Streams(Protocol):
    """The part of `torch.cuda` in use; a fake in the tests detects copies that miss a wait."""

    def Stream(self, device: torch.device) -> Any:
        """Create a queue of work on the device."""

    def stream(self, stream: Any) -> AbstractContextManager[Any]:
        """Issue the work inside the context to this stream."""

    def current_stream(self, device: torch.device) -> Any:
        """The stream that work goes to without such a context."""

    def synchronize(self, device: torch.device) -> None:
        """Wait for all work on the device."""

    def empty_cache(self) -> None:
        """Return unused memory to the driver."""


class CudaTransfer:
    """Copies through page-locked buffers on one stream per direction, concurrently with the forward passes.

    torch reuses page-locked memory and knows when a copy from it has ended. Device memory is reused in the order of
    the stream it was allocated on, so a batch's tensors are held until its vectors have arrived.
    """

    def __init__(self, device: torch.device, streams: Streams = torch.cuda, *, pinned: bool = True) -> None:
        """`pinned` is False only where no page-locked memory exists."""
        self._device = device
        self._streams = streams
        self._pinned = pinned
        self._upload_stream = streams.Stream(device)
        self._download_stream = streams.Stream(device)

    def upload(self, arrays: Mapping[str, NDArray[np.int64]]) -> Mapping[str, torch.Tensor]:
        """Copy all arrays at once; the thread's stream waits for the copy, the thread does not."""
        host = torch.empty(sum(array.size for array in arrays.values()), dtype=torch.int64, pin_memory=self._pinned)
        np.concatenate([array.ravel() for array in arrays.values()], out=host.numpy())
        with self._streams.stream(self._upload_stream):
            on_device = torch.empty_like(host, device=self._device, pin_memory=False)
            on_device.copy_(host, non_blocking=True)
        self._streams.current_stream(self._device).wait_stream(self._upload_stream)
        parts = torch.split(on_device, [array.size for array in arrays.values()])
        return {name: part.view(array.shape) for (name, array), part in zip(arrays.items(), parts, strict=True)}

    def download(self, vectors: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> VectorsFuture:
        """Copy into page-locked memory after the forward pass; the next pass does not wait for the copy."""
        host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=self._pinned)
        self._download_stream.wait_stream(self._streams.current_stream(self._device))
        with self._streams.stream(self._download_stream):
            host.copy_(vectors, non_blocking=True)
        return _TransferFuture(host, self._download_stream.record_event(), (vectors, inputs))

    def recover(self) -> None:
        """Wait for all work first: it may still read tensors that the failed pass released."""
        self._streams.synchronize(self._device)
        self._streams.empty_cache()


class _TransferFuture:
    """Vectors that an event on the download stream reports as arrived; holds the batch's tensors until then."""

    __slots__ = ("_arrived", "_device_tensors", "_vectors")

    def __init__(self, vectors: torch.Tensor, arrived: Any, device_tensors: object) -> None:
        self._vectors = vectors
        self._arrived = arrived
        self._device_tensors: object = device_tensors

    def wait(self) -> NDArray[np.float32]:
        self._arrived.synchronize()
        self._device_tensors = None
        return self._vectors.numpy()
