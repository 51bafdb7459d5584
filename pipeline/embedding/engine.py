"""A sentence-transformers model, run in own batches."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.embedding.api import Execution, ModelStamp
from pipeline.embedding.packing import halves, pack, pad
from pipeline.embedding.tokenizer import ModelTokenizer
from pipeline.errors import Unavailable
from pipeline.records import Chunk

_Ids = Sequence[NDArray[np.int32]]


class TransformerEmbedder:
    """Embeds in batches of similar length, cut by a token budget.

    On a CPU several one-thread forwards run side by side: a forward with many threads waits at every barrier for the
    core that a neighbour took, and small batches stay in the cache. Safe to call from several threads.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        tokenizer: ModelTokenizer,
        stamp: ModelStamp,
        *,
        device: torch.device,
        dtype: torch.dtype,
        token_budget: int,
        workers: int,
    ) -> None:
        """`modules` are a Transformer and what follows it, in order; `workers` forwards run at a time."""
        self.stamp = stamp
        self.tokenizer = tokenizer
        self.device = str(device)
        self.dtype = str(dtype).removeprefix("torch.")
        threads = 1 if device.type == "cpu" else 0
        self.execution = Execution("padded", workers=workers, threads=threads, token_budget=token_budget)
        self._device = device
        self._transformer = modules[0].eval()
        self._head = [module.eval().float() for module in modules[1:]]
        self._budget = token_budget
        self._workers = workers
        self._prompt_tokens = {query: tokenizer.prompt_tokens(query=query) for query in (False, True)}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="embed", initializer=self._enter_worker)

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Vectors of the chunks, shape (n, dimension); see `pipeline.embedding.Embedder`."""
        return self._vectors(self.tokenizer.document_ids(chunks), query=False)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts, shape (n, dimension); see `pipeline.embedding.Embedder`."""
        return self._vectors(self.tokenizer.query_ids(texts), query=True)

    def close(self) -> None:
        """End the threads and let go of the weights."""
        self._pool.shutdown()
        self.tokenizer.close()
        self._head.clear()
        self._transformer = torch.nn.Identity()

    def _enter_worker(self) -> None:
        if self._device.type == "cpu":
            torch.set_num_threads(1)

    def _vectors(self, ids: _Ids, *, query: bool) -> NDArray[np.float32]:
        vectors = np.empty((len(ids), self.stamp.dimension), dtype=np.float32)
        if not ids:
            return vectors
        before = self.tokenizer.before_query if query else self.tokenizer.before_document
        around = len(before) + len(self.tokenizer.after)
        batches = pack([len(item) + around for item in ids], self._budget, self._workers)

        def run(batch: NDArray[np.int64]) -> list[torch.Tensor]:
            return self._run(batch, ids, before, self._prompt_tokens[query])

        # On a GPU the results stay there until the last batch is queued: one copy, and no wait between the batches.
        results = [result for parts in self._pool.map(run, batches) for result in parts]
        vectors[np.concatenate(batches)] = torch.cat(results).cpu().numpy()
        return vectors

    def _run(
        self, batch: NDArray[np.int64], ids: _Ids, before: NDArray[np.int32], prompt_tokens: int
    ) -> list[torch.Tensor]:
        """Vectors of the batch in its order; halved, and halved again, where memory does not hold it."""
        try:
            return [self._forward([ids[index] for index in batch], before, prompt_tokens)]
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            if len(batch) == 1:
                raise Unavailable(
                    f"the memory of {self.device} does not hold one chunk of {len(ids[batch[0]])} tokens: set "
                    "chunking.max_tokens lower, or use a smaller model"
                ) from error
        # Outside of the handler: there the exception would still hold the tensors of the attempt.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return [result for half in halves(batch) for result in self._run(half, ids, before, prompt_tokens)]

    @torch.inference_mode()
    def _forward(self, ids: _Ids, before: NDArray[np.int32], prompt_tokens: int) -> torch.Tensor:
        """One pass over the padded batch; float32 of shape (n, dimension), on the device."""
        input_ids, mask = pad(ids, self.tokenizer.padding_id, before, self.tokenizer.after)
        features: dict[str, Any] = {"input_ids": self._move(input_ids), "attention_mask": self._move(mask)}
        if prompt_tokens:
            features["prompt_length"] = prompt_tokens
        features = self._transformer(features)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in self._head:
            features = module(features)
        vectors: torch.Tensor = features["sentence_embedding"][:, : self.stamp.dimension]
        return vectors.float()

    def _move(self, array: NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
