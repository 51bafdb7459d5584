"""A model's own tokenizer, driven directly: nothing truncated, nothing padded, special tokens apart."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.records import Chunk, Tokens

if TYPE_CHECKING:
    import tokenizers

_SURROGATES = re.compile("[\ud800-\udfff]")
_PARALLEL_CHARACTERS = 100_000
"""From this much text on, several threads tokenize: the Rust side releases the GIL."""
_JOIN_PROBES = 2000
"""Words of the vocabulary with which it is tried whether a prompt's tokens depend on the text behind."""
_JOIN_SLACK = 8
"""Tokens kept free where the text's tokens depend on the prompt before them and may turn out a few more."""


class ModelTokenizer:
    """Tokens as the model reads them, and what stands around them: special tokens and prompts."""

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
        """`limit` is what the model reads, special tokens included. Takes `backend` over and changes its settings.

        Raises `UsageError` if the special tokens do not simply stand before and after the text, or leave no room.
        """
        # Model files bake in a truncation and a padding (MiniLM: 128 tokens) that are not the model's own.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.padding_id = padding_id
        self._before, self.after = self._special_ids()
        self._document_prompt = document_prompt
        self._query_prompt = query_prompt
        prompt = self._ids([document_prompt])[0]
        self._joins = document_prompt == "" or self._prompt_joins()
        self.before_document = np.concatenate([self._before, prompt]) if self._joins else self._before
        self._room = limit - len(self._before) - len(self.after)
        self.max_tokens = self._room - len(prompt) - (0 if self._joins else _JOIN_SLACK)
        if self.max_tokens < 1:
            raise UsageError(f"the model reads {limit} tokens, which its prompts and special tokens fill already")
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tokenize")

    def tokenize(self, texts: Sequence[str], fits: int = 0) -> list[Tokens]:
        """Tokens of each text; see `pipeline.records.Tokenizer`."""
        characters = sum(map(len, texts))
        if characters < _PARALLEL_CHARACTERS or self._threads == 1:
            return self._tokenize(texts, fits)
        size = -(-len(texts) // (2 * self._threads))
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        return list(chain.from_iterable(self._pool.map(self._tokenize, parts, [fits] * len(parts))))

    def document_ids(self, chunks: Sequence[Chunk]) -> list[NDArray[np.int32]]:
        """What stands for each chunk between `before_document` and `after`."""
        if self._joins:
            return [chunk.token_ids for chunk in chunks]
        return [ids[: self._room] for ids in self._ids([self._document_prompt + chunk.text for chunk in chunks])]

    @property
    def before_query(self) -> NDArray[np.int32]:
        """The special tokens that stand before a query and its prompt."""
        return self._before

    def query_ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Prompt and query in one, cut off where the model's limit is; stands between `before_query` and `after`."""
        return [ids[: self._room] for ids in self._ids([self._query_prompt + text for text in texts])]

    def prompt_tokens(self, *, query: bool) -> int:
        """Tokens before a text itself, for models that leave the prompt out of the pooling; 0 without a prompt."""
        prompt = self._query_prompt if query else self._document_prompt
        return len(self._before) + len(self._ids([prompt])[0]) if prompt else 0

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
        except TypeError:  # a lone surrogate is no UTF-8; another character of the same width keeps the offsets
            return self._backend.encode_batch(
                [_SURROGATES.sub("\ufffd", text) for text in texts], add_special_tokens=False
            )

    def _special_ids(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The ids that the model wants before and after every text."""
        found = set()
        for probe in ("a", "first second third"):
            whole = self._backend.encode(probe).ids
            bare = self._backend.encode(probe, add_special_tokens=False).ids
            places = [at for at in range(len(whole) - len(bare) + 1) if whole[at : at + len(bare)] == bare]
            found.add((tuple(whole[: places[0]]), tuple(whole[places[0] + len(bare) :])) if places else None)
        around = found.pop()
        if found or around is None:
            raise UsageError(
                "the tokenizer of this model adds more than a start and an end to a text: use another model"
            )
        return np.array(around[0], dtype=np.int32), np.array(around[1], dtype=np.int32)

    def _prompt_joins(self) -> bool:
        """Whether prompt and text tokenized apart are the tokens of both together, so that chunk ids can be used.

        Tried with words of the vocabulary itself: a token over the border shows only before a word that has one.
        """
        size = self._backend.get_vocab_size()
        words = {self._backend.decode([token]).strip() for token in range(0, size, -(-size // _JOIN_PROBES))}
        bare = sorted(words - {""})
        prompt = self._ids([self._document_prompt])[0]
        together = self._ids([self._document_prompt + word for word in bare])
        return all(
            np.array_equal(whole, np.concatenate([prompt, ids]))
            for whole, ids in zip(together, self._ids(bare), strict=True)
        )
