"""A model's tokenizer without its truncation and padding, and with special tokens and prompts kept apart."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.errors import UsageError
from pipeline.records import Chunk, Tokens

if TYPE_CHECKING:
    import tokenizers

_SURROGATES = re.compile("[\ud800-\udfff]")
_PARALLEL_CHARACTERS = 100_000
"""Texts of this total length are tokenized by several threads: the Rust code releases the GIL."""
_PROMPT_PROBES = 2000
"""Vocabulary words used to test whether a prompt's tokens depend on the text after it."""
_MERGE_SLACK = 8
"""Tokens kept free where prompt and text are tokenized together: the result may be a few tokens longer."""


class ModelTokenizer:
    """Tokenizes chunks and queries for one model. Safe to call from several threads."""

    def __init__(
        self,
        backend: "tokenizers.Tokenizer",
        *,
        limit: int,
        padding_id: int,
        document_prompt: str,
        query_prompt: str,
        threads: int,
    ) -> None:
        """`limit`: the model's input limit in tokens, special tokens included. Owns `backend`, changes its settings.

        Raises `UsageError` if special tokens are more than a prefix and a suffix, or leave no space for a text.
        """
        # Model files carry truncation and padding settings (MiniLM: 128 tokens) that are not the model's own limit.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.padding_id = padding_id
        self._prefix, self._suffix = self._special_ids()
        self.document_prompt = document_prompt
        self.query_prompt = query_prompt
        prompt_ids = self._ids([document_prompt])[0]
        # Whether a chunk's own token ids may follow the prompt's; else prompt and text are tokenized together again.
        self._prompt_is_separable = document_prompt == "" or self._tokenizes_separately()
        self._document_prefix = (
            np.concatenate([self._prefix, prompt_ids]) if self._prompt_is_separable else self._prefix
        )
        self._max_ids = limit - len(self._prefix) - len(self._suffix)
        self.max_tokens = self._max_ids - len(prompt_ids) - (0 if self._prompt_is_separable else _MERGE_SLACK)
        if self.max_tokens < 1:
            raise UsageError(f"the model reads {limit} tokens, which its prompts and special tokens fill already")
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")

    def tokenize(self, texts: Sequence[str], fits: int = 0) -> list[Tokens]:
        """Tokens of each text, nothing truncated; offsets stay empty for texts of at most `fits` tokens."""
        characters = sum(map(len, texts))
        if characters < _PARALLEL_CHARACTERS or self._threads == 1:
            return self._tokenize(texts, fits)
        size = -(-len(texts) // (2 * self._threads))
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        return list(chain.from_iterable(self._pool.map(self._tokenize, parts, [fits] * len(parts))))

    def special_tokens(self, *, query: bool) -> SpecialTokens:
        """The token ids around each of `query_ids`, or around each of `document_ids`."""
        prompt = self.query_prompt if query else self.document_prompt
        prompt_tokens = len(self._prefix) + len(self._ids([prompt])[0]) if prompt else 0
        return SpecialTokens(self._prefix if query else self._document_prefix, self._suffix, prompt_tokens)

    def document_ids(self, chunks: Sequence[Chunk]) -> list[NDArray[np.int32]]:
        """Token ids of each chunk as a document, without the special tokens around it."""
        if self._prompt_is_separable:
            return [chunk.token_ids for chunk in chunks]
        return [ids[: self._max_ids] for ids in self._ids([self.document_prompt + chunk.text for chunk in chunks])]

    def query_ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Token ids of each query with its prompt, cut off at the model's limit, without special tokens."""
        return [ids[: self._max_ids] for ids in self._ids([self.query_prompt + text for text in texts])]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _tokenize(self, texts: Sequence[str], fits: int) -> list[Tokens]:
        tokens = []
        for encoding in self._encode(texts):
            count = len(encoding)
            ids = np.fromiter(encoding.ids, dtype=np.int32, count=count)
            offsets = np.empty(0, dtype=np.int32)
            if count > fits:
                flat = chain.from_iterable(encoding.offsets)
                offsets = np.fromiter(flat, dtype=np.int32, count=2 * count)
            tokens.append(Tokens(ids, offsets[::2], offsets[1::2]))
        return tokens

    def _ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [np.fromiter(encoding.ids, dtype=np.int32, count=len(encoding)) for encoding in self._encode(texts)]

    def _encode(self, texts: Sequence[str]) -> "list[tokenizers.Encoding]":
        try:
            return self._backend.encode_batch(list(texts), add_special_tokens=False)
        except TypeError:  # a lone surrogate is not valid UTF-8; a replacement of the same width keeps the offsets
            return self._backend.encode_batch(
                [_SURROGATES.sub("\ufffd", text) for text in texts], add_special_tokens=False
            )

    def _special_ids(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The special token ids before and after every text, read off two probe texts."""
        surroundings = set()
        for probe in ("a", "first second third"):
            whole = self._backend.encode(probe).ids
            bare = self._backend.encode(probe, add_special_tokens=False).ids
            starts = [start for start in range(len(whole) - len(bare) + 1) if whole[start : start + len(bare)] == bare]
            surroundings.add((tuple(whole[: starts[0]]), tuple(whole[starts[0] + len(bare) :])) if starts else None)
        prefix_and_suffix = surroundings.pop()
        if surroundings or prefix_and_suffix is None:
            raise UsageError(
                "the tokenizer of this model adds more than a start and an end to a text: use another model"
            )
        prefix, suffix = prefix_and_suffix
        return np.array(prefix, dtype=np.int32), np.array(suffix, dtype=np.int32)

    def _tokenizes_separately(self) -> bool:
        """Whether prompt and text tokenized apart give the same tokens as both together.

        Probed with words of the vocabulary itself: a token that crosses the border appears only before such a word.
        """
        size = self._backend.get_vocab_size()
        decoded = {self._backend.decode([token]).strip() for token in range(0, size, -(-size // _PROMPT_PROBES))}
        words = sorted(decoded - {""})
        prompt_ids = self._ids([self.document_prompt])[0]
        together = self._ids([self.document_prompt + word for word in words])
        return all(
            np.array_equal(whole, np.concatenate([prompt_ids, word_ids]))
            for whole, word_ids in zip(together, self._ids(words), strict=True)
        )
