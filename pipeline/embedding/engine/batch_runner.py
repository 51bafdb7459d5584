"""The batch runner: packs sequences, runs several passes at a time, and smaller ones after memory ran out."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import structlog
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import SpecialTokens, halves, pack
from pipeline.embedding.engine.passes import Ids, Passes, ReadyVectors, VectorsFuture
from pipeline.errors import Unavailable

_Batch: TypeAlias = NDArray[np.int64]

_NO_FAILURE = 2**62
"""More tokens than any batch has."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Batch size and parallelism of a model on this machine."""

    token_budget: int
    """Tokens of one forward pass."""
    workers: int = 1
    """Concurrent forward passes."""
    threads: int = 1
    """CPU threads of each pass; unused on a GPU."""


class BatchRunner:
    """Runs forward passes in its own threads; the caller's thread collects the vectors. Call from any thread."""

    def __init__(self, passes: Passes, plan: BatchPlan, *, dimension: int) -> None:
        self.plan = plan
        self.ceiling: int | None = None
        """Tokens of the largest pass that succeeded after a larger one did not fit into memory."""
        self.passes = passes
        self._dimension = dimension
        self._pool = ThreadPoolExecutor(
            plan.workers, "embed", initializer=passes.start_thread, initargs=(plan.threads,)
        )

    @property
    def flat(self) -> bool:
        """Whether a batch is one row without padding."""
        return self.passes.flat

    @property
    def budget(self) -> int:
        """Tokens of one pass: as planned, or less where memory does not hold that."""
        return self.plan.token_budget if self.ceiling is None else min(self.plan.token_budget, self.ceiling)

    def vectors(self, sequences: Ids, special_tokens: SpecialTokens) -> NDArray[np.float32]:
        """Vectors of the token ids, shape (n, dimension), each sequence surrounded by the special tokens.

        A sequence for which memory is too small, though it holds shorter ones, gets a row of NaN. Raises `Unavailable`
        when memory does not hold even the shortest sequence.
        """
        vectors = np.empty((len(sequences), self._dimension), dtype=np.float32)
        lengths = [len(ids) + special_tokens.count for ids in sequences]
        batches = pack(lengths, self.budget, self.plan.workers, padded=not self.flat)

        def run(batch: _Batch) -> list[tuple[_Batch, VectorsFuture]]:
            return self._run(batch, sequences, special_tokens)

        # Waiting for the transfer blocks only this thread, never those that run the passes.
        for parts in self._pool.map(run, batches):
            for batch, future in parts:
                vectors[batch] = future.wait()
        return vectors

    def close(self) -> None:
        """End the threads; running passes are finished, callers waiting for later ones get `CancelledError`."""
        self._pool.shutdown(cancel_futures=True)

    def _run(self, batch: _Batch, sequences: Ids, special_tokens: SpecialTokens) -> list[tuple[_Batch, VectorsFuture]]:
        """Run the batch, or its halves where memory does not hold it, and lower the ceiling accordingly.

        Each (part of a) batch ends in one of four cases:
        1. It fits: its vectors are on their way.
        2. It has two or more sequences and is known to be too large: it is halved without a try.
        3. It has two or more sequences and does not fit: it is halved.
        4. It is a single sequence that does not fit: it gets NaN, or `Unavailable` is raised.
        """
        waiting, done, largest_fit, smallest_failure, single_failed = [batch], [], 0, _NO_FAILURE, False
        while waiting:
            batch = waiting.pop()
            ids = [sequences[index] for index in batch]
            tokens = self._tokens(ids, special_tokens)
            too_large = tokens >= smallest_failure or (self.ceiling is not None and tokens > self.ceiling)
            future = None if too_large and len(batch) > 1 else self.passes.run(ids, special_tokens)
            if future is not None:
                largest_fit = max(largest_fit, tokens)
            elif len(batch) > 1:
                smallest_failure = smallest_failure if too_large else tokens
                waiting.extend(reversed(halves(batch)))
                continue
            else:
                single_failed, future = True, self._nan_vector(ids[0], special_tokens)
            done.append((batch, future))
        # A single sequence too large for any pass says nothing about batches of many small ones.
        failed = smallest_failure < _NO_FAILURE and not single_failed
        if failed and (self.ceiling is None or largest_fit < self.ceiling):
            self.ceiling = largest_fit
            log.warning("embedding.memory_full", what="smaller batches from now on", token_budget=largest_fit)
        return done

    def _nan_vector(self, ids: NDArray[np.int32], special_tokens: SpecialTokens) -> VectorsFuture:
        """NaN for a sequence that does not fit; raises `Unavailable` if a sequence of one token does not fit either."""
        if self.passes.run([ids[:1]], special_tokens) is None:
            raise Unavailable(
                f"memory holds neither one chunk of {len(ids)} tokens nor the shortest there can be: use a smaller "
                "model, or end what else uses the memory of the device"
            )
        log.warning("embedding.chunk_too_long", what="memory does not hold it; it gets no vector", tokens=len(ids))
        return ReadyVectors(np.full((1, self._dimension), np.nan, dtype=np.float32))

    def _tokens(self, ids: Ids, special_tokens: SpecialTokens) -> int:
        """Tokens of one pass, padding included."""
        lengths = [len(sequence) + special_tokens.count for sequence in ids]
        return sum(lengths) if self.flat else max(lengths) * len(lengths)
