"""An embedder without a model, for tests, sizing and fault injection: vectors are digests of the text."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.embedder import Execution, ModelStamp
from pipeline.errors import UsageError
from pipeline.records import Chunk, Tokens

_PREFIX = "hash:"
_MAX_DIMENSION = 32_768
"""Milvus's limit of a vector field."""
_MAX_TOKENS = 256


class WordTokenizer:
    """A tokenizer whose tokens are the words between white space. It has no vocabulary: every id is 0."""

    max_tokens = _MAX_TOKENS

    def tokenize(self, texts: Sequence[str], fits: int = 0) -> list[Tokens]:
        """Split each text into words; offsets stay empty for texts of at most `fits` words."""
        tokens = []
        for text in texts:
            words = text.split()
            ids = np.zeros(len(words), dtype=np.int32)
            if len(words) <= fits:
                tokens.append(Tokens(ids, ids[:0], ids[:0]))
                continue
            starts = np.empty(len(words), dtype=np.int32)
            end = 0
            for index, word in enumerate(words):
                starts[index] = start = text.index(word, end)
                end = start + len(word)
            lengths = np.fromiter(map(len, words), dtype=np.int32, count=len(words))
            tokens.append(Tokens(ids, starts, starts + lengths))
        return tokens


class HashEmbedder:
    """Deterministic unit vectors from a digest: equal texts have equal vectors, different texts unrelated ones."""

    engine = "none"
    device = "cpu"
    dtype = "float32"
    execution = Execution("none", workers=1, threads=1, token_budget=0)

    def __init__(self, model: str) -> None:
        """`model` is `hash:` followed by the dimension; raises `UsageError` if it is not."""
        dimension = model.removeprefix(_PREFIX)
        if not (dimension.isascii() and dimension.isdecimal() and 2 <= int(dimension) <= _MAX_DIMENSION):
            raise UsageError(
                f"embedding.model is {model!r}: write hash: and the dimension, 2 to {_MAX_DIMENSION}, as in hash:384"
            )
        self._dimension = int(dimension)
        self.tokenizer = WordTokenizer()
        self.stamp = ModelStamp(
            name=model,
            digest=hashlib.sha256(f"shake_128 {self._dimension}".encode()).hexdigest(),
            dimension=self._dimension,
            pooling="none",
            max_tokens=_MAX_TOKENS,
        )

    @staticmethod
    def is_hash_model(model: str) -> bool:
        """Whether a configured model name means this embedder."""
        return model.startswith(_PREFIX)

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Vectors of the chunks' texts, shape (n, dimension)."""
        return self.embed_queries([chunk.text for chunk in chunks])

    embed_few = embed

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts, shape (n, dimension); a chunk with the same text has the same vector."""
        size = self._dimension
        digests = b"".join(hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(size) for text in texts)
        vectors = np.frombuffer(digests, dtype=np.uint8).reshape(len(texts), size).astype(np.float32)
        vectors -= 127.5  # half a step: no component is 0, so no vector is 0 and the norm never divides by 0
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def close(self) -> None:
        """Do nothing: there are no threads and no weights."""
