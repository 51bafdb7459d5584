"""Rows come back in the order given, whatever the batches were; memory that runs out makes batches smaller."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.embedding.engine.batch_runner import BatchPlan, BatchRunner
from pipeline.embedding.engine.device_transfer import HostTransfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.torch_passes import TorchPasses
from pipeline.errors import Unavailable
from tests.support.examples import examples
from tests.unit.pipeline.embedding.bare_models import FLAT, HIDDEN, SPECIAL_TOKENS, forward_of, texts


class Allocator(torch.nn.Module):
    """A transformer that fails above a number of tokens, as memory does."""

    def __init__(self, inner: torch.nn.Module, tokens: int) -> None:
        super().__init__()
        self.model = inner.model
        self._inner = inner
        self.tokens = tokens
        self.passes: list[int] = []

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        size = features["input_ids"].numel()
        self.passes.append(size)
        if size > self.tokens:
            raise torch.OutOfMemoryError(f"cannot allocate {size}")
        result: dict[str, torch.Tensor] = self._inner(features)
        return result


class Counting(HostTransfer):
    """Counts how often memory ran out."""

    def __init__(self) -> None:
        super().__init__()
        self.recovered = 0

    def recover(self) -> None:
        self.recovered += 1


class Rig:
    def __init__(self, plan: BatchPlan, *, tokens: int, flat: bool) -> None:
        make, pooling = FLAT["bert"]
        self.forward = forward_of(make(), pooling)
        if flat:
            self.forward.use_flat_batches()
        self.memory = Allocator(self.forward._transformer, tokens)
        self.forward._transformer = self.memory
        self.transfer = Counting()
        self.runner = BatchRunner(TorchPasses(self.forward, self.transfer), plan, dimension=HIDDEN)

    def vectors(self, lengths: list[int]) -> NDArray[np.float32]:
        return self.runner.vectors(texts(lengths), SPECIAL_TOKENS)


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(plan: BatchPlan, *, tokens: int = 10**9, flat: bool = True) -> Rig:
        rigs.append(Rig(plan, tokens=tokens, flat=flat))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.runner.close()


@cache
def reference() -> Forward:
    make, pooling = FLAT["bert"]
    return forward_of(make(), pooling)


def alone(lengths: list[int]) -> NDArray[np.float32]:
    """Vectors of each text in a pass of its own, padded: the reference for every layout."""
    forward = reference()
    rows = []
    for text in texts(lengths):
        inputs = forward.inputs([text], SPECIAL_TOKENS)
        rows.append(forward(inputs, HostTransfer().upload(inputs.arrays)).numpy())
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[bool, Rig]]:
    rigs = {flat: Rig(BatchPlan(300, workers=3), tokens=200, flat=flat) for flat in (False, True)}
    yield rigs
    for rig in rigs.values():
        rig.runner.close()


@examples(0.2)
@given(lengths=st.lists(st.integers(0, 100), max_size=40), flat=st.booleans())
def test_rows_are_in_the_order_given(shared: dict[bool, Rig], lengths: list[int], flat: bool) -> None:
    actual = shared[flat].vectors(lengths)
    assert actual.shape == (len(lengths), HIDDEN)
    if lengths:
        assert np.allclose(actual, alone(lengths), atol=1e-4)


def test_the_ceiling_is_learned_once_and_kept(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(BatchPlan(1000), tokens=260)
    lengths = [20] * 100
    first = rig.vectors(lengths)
    assert rig.runner.ceiling is not None
    assert 130 < rig.runner.ceiling <= 260  # the largest half that fitted
    assert rig.runner.budget == rig.runner.ceiling
    assert rig.transfer.recovered == sum(size > 260 for size in rig.memory.passes) > 0
    rig.memory.passes.clear()
    assert np.allclose(rig.vectors(lengths), first, atol=1e-5)
    assert max(rig.memory.passes) <= 260
    assert min(rig.memory.passes[:-1]) > 260 / 2  # and no smaller than needed


def test_batches_packed_before_the_ceiling_was_known_are_split_without_trying(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(BatchPlan(1000), tokens=260)
    rig.vectors([20] * 400)  # nine batches of 1000 tokens in one call
    assert sum(size > 260 for size in rig.memory.passes) == 2  # 1000, its half of 500, then never again


@pytest.mark.parametrize("flat", [False, True])
def test_one_text_that_is_too_long_stops_no_other(
    make_rig: Callable[..., Rig], flat: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = make_rig(BatchPlan(1000), tokens=90, flat=flat)
    lengths = [10, 110, 20, 5]
    actual = rig.vectors(lengths)
    assert np.isnan(actual[1]).all()
    rest = [0, 2, 3]
    assert np.allclose(actual[rest], alone(lengths)[rest], atol=1e-4)
    assert rig.runner.ceiling is None  # one long text says nothing about many short ones
    assert "embedding.chunk_too_long" in capsys.readouterr().out


def test_memory_that_holds_nothing_is_unavailable_and_no_fault_of_the_text(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(BatchPlan(1000), tokens=SPECIAL_TOKENS.count - 1)
    with pytest.raises(Unavailable, match="one chunk of 30 tokens"):
        rig.vectors([30, 10])


def test_the_host_running_out_of_memory_is_recognised(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(BatchPlan(1000))
    inner = rig.forward._transformer.forward

    def refuse(features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if features["input_ids"].numel() > 60:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        result: dict[str, torch.Tensor] = inner(features)
        return result

    monkeypatch.setattr(rig.forward._transformer, "forward", refuse)
    assert np.isfinite(rig.vectors([20, 20, 20, 20])).all()


def test_each_worker_gets_the_threads_of_the_plan(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), []
    rig = make_rig(BatchPlan(100, workers=1, threads=3))
    inner = rig.forward._transformer.forward

    def record(features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(torch.get_num_threads())
        result: dict[str, torch.Tensor] = inner(features)
        return result

    monkeypatch.setattr(rig.forward._transformer, "forward", record)
    rig.vectors([5])
    torch.set_num_threads(before)
    assert seen == [3]
