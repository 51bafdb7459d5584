"""The embedder of sentence-transformers models."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.embedding.embedder import Execution, ModelStamp
from pipeline.embedding.engine.batch_runner import BatchRunner, Ids
from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.records import Chunk


class TransformerEmbedder:
    """Embeds in batches of similar length within a token budget. Safe to call from several threads."""

    def __init__(
        self,
        forward: Forward,
        runner: BatchRunner,
        tokenizer: ModelTokenizer,
        stamp: ModelStamp,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Owns the forward pass, the runner and the tokenizer: `close` closes them."""
        self.stamp = stamp
        self.tokenizer = tokenizer
        self.device = str(device)
        self.dtype = str(dtype).removeprefix("torch.")
        self.runner = runner
        self._forward = forward
        self._document_tokens = tokenizer.special_tokens(query=False)
        self._query_tokens = tokenizer.special_tokens(query=True)

    @property
    def execution(self) -> Execution:
        """The batch layout, workers and threads in use; the token budget shrinks after memory ran out."""
        plan = self.runner.plan
        return Execution(
            "flat" if self._forward.flat else "padded",
            workers=plan.workers,
            threads=plan.threads if self.device == "cpu" else 0,
            token_budget=self.runner.budget,
        )

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Vectors of the chunks as documents, shape (n, dimension)."""
        return self._vectors(self.tokenizer.document_ids(chunks), self._document_tokens)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts as queries, shape (n, dimension)."""
        return self._vectors(self.tokenizer.query_ids(texts), self._query_tokens)

    def _vectors(self, ids: Ids, special_tokens: SpecialTokens) -> NDArray[np.float32]:
        """Vectors of the sequences; NaN for those that leave nothing to pool, not even a special token."""
        pooled = [
            index
            for index, sequence in enumerate(ids)
            if len(sequence) + special_tokens.count > special_tokens.prompt_tokens
        ]
        if len(pooled) == len(ids):
            return self.runner.vectors(ids, special_tokens)
        vectors = np.full((len(ids), self.stamp.dimension), np.nan, dtype=np.float32)
        vectors[pooled] = self.runner.vectors([ids[index] for index in pooled], special_tokens)
        return vectors

    def close(self) -> None:
        """End the threads and release the weights."""
        self.runner.close()
        self.tokenizer.close()
        self._forward.close()
