"""Between the host's memory and a device: batches there, vectors back, beside the forward passes."""

import ctypes
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

_GIVE_BACK_TOKENS = 8192
"""Tokens after which unused memory of the host is returned."""


class VectorsFuture(Protocol):
    """Vectors on their way to the host."""

    def wait(self) -> NDArray[np.float32]:
        """The vectors, shape (n, dimension); blocks until they have arrived."""


class Transfer(Protocol):
    """Ways to and from one device. `upload`, `download` and `recover` belong to the threads that run forwards."""

    def upload(self, arrays: Mapping[str, NDArray[np.int64]]) -> Mapping[str, torch.Tensor]:
        """The arrays on the device, ready for the forward pass that this thread runs next."""

    def download(self, vectors: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> VectorsFuture:
        """Begin to fetch what a forward pass made of the inputs; does not block."""

    def recover(self) -> None:
        """After memory ran out: wait for what is under way and give back what is unused."""


class HostTransfer:
    """Nothing moves: the model runs on the CPU.

    The C library keeps what passes have freed, for each thread apart and in pieces that no longer fit. Told now and
    then to return it, the process needs two thirds of the memory, for some 3 % of the time.
    """

    def __init__(self) -> None:
        self._give_back = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        self._tokens = 0

    def upload(self, arrays: Mapping[str, NDArray[np.int64]]) -> Mapping[str, torch.Tensor]:
        """The arrays as tensors on the same memory."""
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def download(self, vectors: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> VectorsFuture:
        """The vectors themselves."""
        self._tokens += inputs["input_ids"].numel()  # of several threads one may be lost
        if self._tokens >= _GIVE_BACK_TOKENS:
            self.recover()
        return ReadyVectors(vectors.numpy())

    def recover(self) -> None:
        """Return what is unused; only glibc has to be told."""
        self._tokens = 0
        if self._give_back is not None:
            self._give_back(0)


class ReadyVectors:
    """Vectors that are here already."""

    __slots__ = ("_vectors",)

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def wait(self) -> NDArray[np.float32]:
        """See `VectorsFuture`."""
        return self._vectors


class Streams(Protocol):
    """What is used of `torch.cuda`; a fake of it shows a copy that does not wait for what it must wait for."""

    def Stream(self, device: torch.device) -> Any:
        """A queue of work on the device."""

    def stream(self, stream: Any) -> AbstractContextManager[Any]:
        """Work issued inside goes to this stream."""

    def current_stream(self, device: torch.device) -> Any:
        """The stream that work goes to otherwise."""

    def synchronize(self, device: torch.device) -> None:
        """Wait for all work on the device."""

    def empty_cache(self) -> None:
        """Give unused memory back to the driver."""


class CudaTransfer:
    """Page-locked buffers, and a stream of its own for each direction, so that copies run beside the forward passes.

    torch keeps page-locked memory for reuse and knows when a copy from it has ended. Device memory is reused in the
    order of the stream it was made on; so a batch's tensors are held until its vectors have arrived.
    """

    def __init__(self, device: torch.device, streams: Streams = torch.cuda, *, pinned: bool = True) -> None:
        """`pinned` is False only where no page-locked memory exists."""
        self._device = device
        self._streams = streams
        self._pinned = pinned
        self._in = streams.Stream(device)
        self._out = streams.Stream(device)

    def upload(self, arrays: Mapping[str, NDArray[np.int64]]) -> Mapping[str, torch.Tensor]:
        """One copy for all arrays, which the thread's stream waits for."""
        staged = torch.empty(sum(array.size for array in arrays.values()), dtype=torch.int64, pin_memory=self._pinned)
        np.concatenate([array.ravel() for array in arrays.values()], out=staged.numpy())
        with self._streams.stream(self._in):
            there = torch.empty_like(staged, device=self._device, pin_memory=False)
            there.copy_(staged, non_blocking=True)
        self._streams.current_stream(self._device).wait_stream(self._in)
        parts = torch.split(there, [array.size for array in arrays.values()])
        return {name: part.view(array.shape) for (name, array), part in zip(arrays.items(), parts, strict=True)}

    def download(self, vectors: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> VectorsFuture:
        """A copy into page-locked memory behind the forward pass; the next pass does not wait for it."""
        here = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=self._pinned)
        self._out.wait_stream(self._streams.current_stream(self._device))
        with self._streams.stream(self._out):
            here.copy_(vectors, non_blocking=True)
        return _TransferFuture(here, self._out.record_event(), (vectors, inputs))

    def recover(self) -> None:
        """The failed pass let go of tensors that queued work may still read: first wait for that work."""
        self._streams.synchronize(self._device)
        self._streams.empty_cache()


class _TransferFuture:
    __slots__ = ("_arrived", "_held", "_vectors")

    def __init__(self, vectors: torch.Tensor, arrived: Any, held: object) -> None:
        self._vectors = vectors
        self._arrived = arrived
        self._held: object = held

    def wait(self) -> NDArray[np.float32]:
        self._arrived.synchronize()
        self._held = None
        return self._vectors.numpy()
