"""The embedding service: vectors of texts by the model of the collection, for programs that search Milvus themselves.

It runs the same model in the same two ways as the pipeline does: texts as queries, or as documents with their prompt.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding import Embedder
from pipeline.errors import RateLimited
from pipeline.query.candidates import DeadlinePassed
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.service import Overloaded, QueryEmbedder

InputType = Literal["query", "document"]
"""What a text is to the model: many models put another prompt before each."""
BATCH = 32
"""Texts handed to the model at a time, so that a search waits for no more than these."""
MAX_INPUTS = 1_024
MAX_COMPONENTS = 1_048_576
"""Numbers of an answer: texts times dimension."""
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The vectors of texts, and how many tokens the model read."""

    vectors: NDArray[np.float32]
    """Shape (texts, dimension), finite, in the order of the texts."""
    tokens: int
    """Of all texts, without special tokens and prompts."""


class EmbeddingService:
    """Embeds texts of clients on one event loop, in small batches beside the searches."""

    def __init__(self, model: Embedder, queries: QueryEmbedder, documents: QueryEmbedder) -> None:
        """`queries` and `documents` run the model on texts of either kind; `queries` is the one of the searches."""
        self._model = model
        self._embedders: dict[InputType, QueryEmbedder] = {"query": queries, "document": documents}

    @property
    def model_name(self) -> str:
        """The model as clients name it: as configured; of a local folder only its own name."""
        name = self._model.stamp.name
        return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", ".", "~")) else name

    @property
    def dimension(self) -> int:
        """Numbers in each vector."""
        return self._model.stamp.dimension

    @property
    def max_inputs(self) -> int:
        """Most texts of one request."""
        return max(1, min(MAX_INPUTS, MAX_COMPONENTS // self.dimension))

    async def embed(self, texts: Sequence[str], input_type: InputType) -> Embeddings:
        """Embed the texts. Raises InvalidRequest at the text's place under /input, Overloaded, DeadlinePassed.

        A text that is longer than the model reads is refused: the vector of its beginning would pass for the whole.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                counts = await self._count(texts)
                batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
                vectors = [await self._embedders[input_type].embed(batch) for batch in batches]
        except RateLimited as error:
            raise Overloaded(str(error)) from error
        except TimeoutError as error:
            raise DeadlinePassed(f"the texts were not embedded within {TIMEOUT_S:.0f} s; send fewer") from error
        rows = np.concatenate(vectors)
        for index in np.flatnonzero(~np.isfinite(rows).all(axis=1)):
            raise InvalidRequest(f"/input/{index}", "has no vector: the model finds nothing in it that it can read")
        return Embeddings(rows, sum(counts))

    async def _count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text. Raises InvalidRequest for one that the model does not read whole."""
        tokenizer = self._model.tokenizer
        counts: list[int] = []
        for start in range(0, len(texts), BATCH):
            tokenize = partial(tokenizer.tokenize, texts[start : start + BATCH], fits=tokenizer.max_tokens)
            counts.extend(len(tokens.ids) for tokens in await asyncio.to_thread(tokenize))
        for index, count in enumerate(counts):
            if count > tokenizer.max_tokens:
                most = f"the model reads {tokenizer.max_tokens:,} of a text; cut the text into chunks"
                raise InvalidRequest(f"/input/{index}", f"has {count:,} tokens, and {most}")
        return counts
