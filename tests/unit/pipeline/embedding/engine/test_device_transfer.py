"""Copies run concurrently with the forward passes and still wait for what they must wait for.

There is no GPU in this test. A fake of torch's streams records for each stream which work of other streams it follows,
and a dispatch mode inspects every operation: one that touches what another stream wrote, without having waited for it,
is a race that a GPU would show only now and then.
"""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.embedding.engine.device_transfer import CudaTransfer, HostTransfer
from pipeline.embedding.engine.forward_pass import Forward, Inputs
from pipeline.embedding.engine.passes import VectorsFuture
from tests.unit.pipeline.embedding.bare_models import FLAT, SPECIAL_TOKENS, forward_of, texts

DEVICE = torch.device("cpu")


class Queue:
    """A queue of work: knows how far it, and every stream it waited for, had come."""

    def __init__(self) -> None:
        self.knows: dict[Queue, int] = {self: 0}

    def wait_stream(self, other: "Queue") -> None:
        for stream, time in other.knows.items():
            self.knows[stream] = max(self.knows.get(stream, 0), time)

    def record_event(self) -> "Event":
        return Event(self)


class Event:
    def __init__(self, stream: Queue) -> None:
        self.knows = dict(stream.knows)
        self.waited = False

    def synchronize(self) -> None:
        self.waited = True


class Streams:
    """The part of `torch.cuda` that is used."""

    def __init__(self) -> None:
        self.current = self.compute = Queue()
        self.calls: list[str] = []

    def Stream(self, device: torch.device) -> Queue:
        return Queue()

    @contextmanager
    def stream(self, stream: Queue) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def current_stream(self, device: torch.device) -> Queue:
        return self.current

    def synchronize(self, device: torch.device) -> None:
        self.calls.append("synchronize")

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")


class Races(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where an operation uses memory that another stream wrote and was not waited for."""

    def __init__(self, streams: Streams) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._streams = streams
        self._written: dict[int, tuple[Queue, int]] = {}
        self.copies: list[Queue] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        stream = self._streams.current
        given = list(_storages((args, kwargs)))
        for storage in given:
            writer, time = self._written.get(storage, (stream, 0))
            if stream.knows.get(writer, -1) < time:
                raise AssertionError(f"{func} does not wait for what another stream writes")
        if func is torch.ops.aten.copy_.default:
            self.copies.append(stream)
        result = func(*args, **(kwargs or {}))
        stream.knows[stream] += 1
        for storage in _storages(result):
            if "empty" in func.name():  # memory that was another tensor's before; nothing is written yet
                self._written.pop(storage, None)
            elif func._schema.is_mutable or storage not in given:  # a view writes nothing
                self._written[storage] = (stream, stream.knows[stream])
        return result


def _storages(values: object) -> Iterator[int]:
    for value in tree_leaves(values):
        if isinstance(value, torch.Tensor):
            yield value.untyped_storage().data_ptr()


class Rig:
    def __init__(self) -> None:
        make, pooling = FLAT["bert"]
        self.forward: Forward = forward_of(make(), pooling)
        self.forward.use_flat_batches()
        self.streams = Streams()
        self.transfer = CudaTransfer(DEVICE, self.streams, pinned=False)


def there_and_back(rig: Rig, inputs: Inputs) -> VectorsFuture:
    tensors = rig.transfer.upload(inputs.arrays)
    return rig.transfer.download(rig.forward(inputs, tensors), tensors)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_several_batches_without_a_race_and_with_the_right_vectors(rig: Rig) -> None:
    batches = [[10, 10, 4], [60], [3, 2, 1]]
    inputs = [rig.forward.inputs(texts(lengths), SPECIAL_TOKENS) for lengths in batches]
    expected = [rig.forward(batch, HostTransfer().upload(batch.arrays)).numpy() for batch in inputs]
    with Races(rig.streams) as races:
        pending = [there_and_back(rig, batch) for batch in inputs]
    for arriving, vectors in zip(pending, expected, strict=True):
        assert np.array_equal(arriving.wait(), vectors)
    # Each direction has a stream, neither is that of the forward passes.
    copying = {stream for stream in races.copies if stream is not rig.streams.compute}
    assert len(copying) == 2


@pytest.mark.parametrize("forgotten", ["in", "out"])
def test_a_wait_that_is_left_out_is_a_race(rig: Rig, forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = rig.streams.compute if forgotten == "in" else rig.transfer._download_stream
    monkeypatch.setattr(waiting, "wait_stream", lambda _: None)
    with pytest.raises(AssertionError, match="does not wait"), Races(rig.streams):
        there_and_back(rig, rig.forward.inputs(texts([5, 5]), SPECIAL_TOKENS))


def test_what_the_device_still_reads_is_kept_until_the_vectors_are_here(rig: Rig) -> None:
    inputs = rig.forward.inputs(texts([5, 5]), SPECIAL_TOKENS)
    tensors = rig.transfer.upload(inputs.arrays)
    vectors = rig.forward(inputs, tensors)
    held = [weakref.ref(vectors), *map(weakref.ref, tensors.values())]
    pending: Any = rig.transfer.download(vectors, tensors)
    del vectors, tensors
    gc.collect()
    assert all(reference() is not None for reference in held)
    pending.wait()
    assert pending._arrived.waited
    gc.collect()
    assert all(reference() is None for reference in held)


def test_after_a_failed_pass_the_device_is_synchronized_before_memory_is_released(rig: Rig) -> None:
    rig.transfer.recover()
    assert rig.streams.calls == ["synchronize", "empty_cache"]


def test_torch_has_the_functions_in_use() -> None:
    for name in ("Stream", "stream", "current_stream", "synchronize", "empty_cache"):
        assert callable(getattr(torch.cuda, name))
    for name in ("wait_stream", "record_event"):
        assert callable(getattr(torch.cuda.Stream, name))
