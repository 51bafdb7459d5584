"""Many sequences through the model: packed, several passes at a time, and smaller ones where memory runs out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import SpecialTokens, halves, pack
from pipeline.embedding.engine.device_transfer import ReadyVectors, Transfer, VectorsFuture
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.errors import Unavailable

Ids: TypeAlias = Sequence[NDArray[np.int32]]
_Batch: TypeAlias = NDArray[np.int64]

_NEVER = 2**62

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How a model is run on this machine."""

    token_budget: int
    """Tokens of one forward pass."""
    workers: int = 1
    """Forward passes at a time."""
    threads: int = 1
    """Processor threads of each; counts on a CPU only."""


class Runner:
    """Runs forward passes in threads of its own and fetches their vectors in the caller's. Call from any thread."""

    def __init__(self, forward: Forward, transfer: Transfer, plan: BatchPlan, *, dimension: int) -> None:
        self.plan = plan
        self.ceiling: int | None = None
        """Tokens of the largest pass that went through after a larger one did not fit the memory."""
        self._forward = forward
        self._transfer = transfer
        self._dimension = dimension
        self._pool = ThreadPoolExecutor(
            plan.workers, "embed", initializer=torch.set_num_threads, initargs=(plan.threads,)
        )

    @property
    def budget(self) -> int:
        """Tokens of one pass: as planned, or what memory was found to hold."""
        return self.plan.token_budget if self.ceiling is None else min(self.plan.token_budget, self.ceiling)

    def vectors(self, sequences: Ids, around: SpecialTokens) -> NDArray[np.float32]:
        """Vectors of the token ids, shape (n, dimension), each sequence put between what stands `around` it.

        The row of a sequence that memory does not hold, though it holds shorter ones, is NaN. Raises `Unavailable` when
        it holds none.
        """
        vectors = np.empty((len(sequences), self._dimension), dtype=np.float32)
        lengths = [len(ids) + around.tokens for ids in sequences]
        batches = pack(lengths, self.budget, self.plan.workers, padded=not self._forward.flat)

        def run(batch: _Batch) -> list[tuple[_Batch, VectorsFuture]]:
            return self._run(batch, sequences, around)

        # This thread waits for what arrives; those that run the passes never do.
        for parts in self._pool.map(run, batches):
            for batch, pending in parts:
                vectors[batch] = pending.wait()
        return vectors

    def close(self) -> None:
        """End the threads; passes under way are finished, and who waits for others gets `CancelledError`."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, batch: _Batch, sequences: Ids, around: SpecialTokens) -> list[tuple[_Batch, VectorsFuture]]:
        """Pass the batch, or its halves where memory does not hold it; learns from that what it holds."""
        waiting, done, fitted, failed, alone = [batch], [], 0, _NEVER, False
        while waiting:
            batch = waiting.pop()
            ids = [sequences[index] for index in batch]
            tokens = self._tokens(ids, around)
            hopeless = tokens >= failed or (self.ceiling is not None and tokens > self.ceiling)
            pending = None if hopeless and len(batch) > 1 else self._try(ids, around)
            if pending is not None:
                fitted = max(fitted, tokens)
            elif len(batch) > 1:
                failed = failed if hopeless else tokens
                waiting.extend(reversed(halves(batch)))
                continue
            else:
                alone, pending = True, self._without(ids[0], around)
            done.append((batch, pending))
        # A single sequence too large for any pass says nothing about those of many small ones.
        if failed < _NEVER and not alone and (self.ceiling is None or fitted < self.ceiling):
            self.ceiling = fitted
            log.warning("embedding.memory_full", what="smaller batches from now on", token_budget=fitted)
        return done

    def _try(self, ids: Ids, around: SpecialTokens) -> VectorsFuture | None:
        """One forward pass; None where memory does not hold it."""
        try:
            inputs = self._forward.inputs(ids, around)
            tensors = self._transfer.upload(inputs.arrays)
            return self._transfer.download(self._forward(inputs, tensors), tensors)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
        # Outside of the handler: there the exception would still hold the tensors of the attempt.
        self._transfer.recover()
        return None

    def _without(self, ids: NDArray[np.int32], around: SpecialTokens) -> VectorsFuture:
        """NaN for a sequence that does not fit, if the shortest one does: then it is not memory itself that is gone."""
        if self._try([ids[:1]], around) is None:
            raise Unavailable(
                f"memory holds neither one chunk of {len(ids)} tokens nor the shortest there can be: use a smaller "
                "model, or end what else uses the memory of the device"
            )
        log.warning("embedding.chunk_too_long", what="memory does not hold it; it gets no vector", tokens=len(ids))
        return ReadyVectors(np.full((1, self._dimension), np.nan, dtype=np.float32))

    def _tokens(self, ids: Ids, around: SpecialTokens) -> int:
        """Tokens of a pass, padding included."""
        lengths = [len(item) + around.tokens for item in ids]
        return sum(lengths) if self._forward.flat else max(lengths) * len(lengths)


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
