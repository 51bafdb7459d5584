"""A sentence-transformers model as the pipeline's embedder."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.embedding.embedder import Execution, ModelStamp
from pipeline.embedding.engine.batch_runner import Ids, Runner
from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.records import Chunk


def around(tokenizer: ModelTokenizer, *, query: bool) -> SpecialTokens:
    """What stands around a text of this kind in the model's input."""
    before = tokenizer.before_query if query else tokenizer.before_document
    return SpecialTokens(before, tokenizer.after, tokenizer.prompt_tokens(query=query))


class TransformerEmbedder:
    """Embeds in batches of similar length, cut by a token budget. Safe to call from several threads."""

    def __init__(
        self,
        forward: Forward,
        runner: Runner,
        tokenizer: ModelTokenizer,
        stamp: ModelStamp,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Takes over what it is given: `close` closes all of it."""
        self.stamp = stamp
        self.tokenizer = tokenizer
        self.device = str(device)
        self.dtype = str(dtype).removeprefix("torch.")
        self.runner = runner
        self._forward = forward
        self._documents = around(tokenizer, query=False)
        self._queries = around(tokenizer, query=True)

    @property
    def execution(self) -> Execution:
        """How it is run; the token budget sinks where memory turns out not to hold it."""
        plan = self.runner.plan
        return Execution(
            "flat" if self._forward.flat else "padded",
            workers=plan.workers,
            threads=plan.threads if self.device == "cpu" else 0,
            token_budget=self.runner.budget,
        )

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Vectors of the chunks, shape (n, dimension); see `pipeline.embedding.Embedder`."""
        return self._vectors(self.tokenizer.document_ids(chunks), self._documents)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts, shape (n, dimension); see `pipeline.embedding.Embedder`."""
        return self._vectors(self.tokenizer.query_ids(texts), self._queries)

    def _vectors(self, ids: Ids, around: SpecialTokens) -> NDArray[np.float32]:
        """The row of a text of which there is nothing to read, not even a special token, is NaN."""
        readable = [index for index, item in enumerate(ids) if len(item) + around.tokens > around.prompt_tokens]
        if len(readable) == len(ids):
            return self.runner.vectors(ids, around)
        vectors = np.full((len(ids), self.stamp.dimension), np.nan, dtype=np.float32)
        vectors[readable] = self.runner.vectors([ids[index] for index in readable], around)
        return vectors

    def close(self) -> None:
        """End the threads and let go of the weights."""
        self.runner.close()
        self.tokenizer.close()
        self._forward.close()
