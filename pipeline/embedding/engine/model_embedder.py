"""The embedder of sentence-transformers models, whatever engine runs them."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.embedder import Execution, ModelStamp
from pipeline.embedding.engine.batch_runner import BatchRunner
from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.passes import Ids
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.records import Chunk


class RunnerOnDemand:
    """A runner that is made by its first use: a query worker embeds no documents, an ingest worker no queries."""

    def __init__(self, make: Callable[[], BatchRunner]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._runner: BatchRunner | None = None

    def get(self) -> BatchRunner:
        """The runner; the first call blocks until it is made, and raises what that raises."""
        with self._lock:
            if self._runner is None:
                self._runner = self._make()
            return self._runner

    def close(self) -> None:
        """End the runner's threads and release its weights, if there is one."""
        with self._lock:
            if self._runner is not None:
                self._runner.close()
                self._runner.passes.close()


class ModelEmbedder:
    """Embeds in batches of similar length within a token budget. Safe to call from several threads."""

    def __init__(
        self,
        documents: RunnerOnDemand,
        queries: RunnerOnDemand,
        tokenizer: ModelTokenizer,
        stamp: ModelStamp,
        *,
        engine: str,
        device: str,
        dtype: str,
    ) -> None:
        """Owns the runners and the tokenizer: `close` closes them. `queries` may be the runner of the documents."""
        self.stamp = stamp
        self.tokenizer = tokenizer
        self.engine = engine
        self.device = device
        self.dtype = dtype
        self._documents = documents
        self._queries = queries
        self._document_tokens = tokenizer.special_tokens(query=False)
        self._query_tokens = tokenizer.special_tokens(query=True)

    @property
    def execution(self) -> Execution:
        """How documents are run: batch layout, workers, threads; the token budget shrinks after memory ran out."""
        runner = self._documents.get()
        return Execution(
            "flat" if runner.flat else "padded",
            workers=runner.plan.workers,
            threads=runner.plan.threads if self.device == "cpu" else 0,
            token_budget=runner.budget,
        )

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Vectors of the chunks as documents, shape (n, dimension)."""
        return self._vectors(self._documents.get(), self.tokenizer.document_ids(chunks), self._document_tokens)

    def embed_few(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Vectors of the chunks as documents, by the runner of the queries: a second one takes time and memory."""
        return self._vectors(self._queries.get(), self.tokenizer.document_ids(chunks), self._document_tokens)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts as queries, shape (n, dimension)."""
        return self._vectors(self._queries.get(), self.tokenizer.query_ids(texts), self._query_tokens)

    def _vectors(self, runner: BatchRunner, ids: Ids, special_tokens: SpecialTokens) -> NDArray[np.float32]:
        """Vectors of the sequences; NaN for those that leave nothing to pool, not even a special token."""
        pooled = [
            index
            for index, sequence in enumerate(ids)
            if len(sequence) + special_tokens.count > special_tokens.prompt_tokens
        ]
        if len(pooled) == len(ids):
            return runner.vectors(ids, special_tokens)
        vectors = np.full((len(ids), self.stamp.dimension), np.nan, dtype=np.float32)
        vectors[pooled] = runner.vectors([ids[index] for index in pooled], special_tokens)
        return vectors

    def close(self) -> None:
        """End the threads and release the weights."""
        self._documents.close()
        self._queries.close()
        self.tokenizer.close()
