"""A cross-encoder: it reads a query and a text together, and says how well the text answers the query."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.embedding.engine.batching import pack, row_length
from pipeline.embedding.engine.openvino_passes import pass_once, shape_step

if TYPE_CHECKING:
    import openvino
    import tokenizers

_SURROGATES = re.compile("[\ud800-\udfff]")
_CHARS_PER_TOKEN = 16
"""What is behind so many characters for each token that the model reads is not tokenized: nobody bounds a text."""
PASS_TOKENS = 512
"""Tokens of one pass, padding included: few, so that a caller can stop soon; 0.1 s of MiniLM-L6 on two cores."""

Pair: TypeAlias = "tokenizers.Encoding"


class CrossEncoder(Protocol):
    """A loaded cross-encoder, made by `load_cross_encoder`. One thread at a time may use it."""

    def passes(self, query: str, texts: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """One forward pass after another: (which of the texts, their logits). A higher logit is a better text.

        Together they have each text once. A text that is too long for the model is cut.
        """

    def close(self) -> None:
        """Release the weights; it must not be used afterwards."""


class PairTokenizer:
    """Tokenizes pairs of a query and a text for one model, at most `limit` tokens each, as transformers does."""

    def __init__(self, backend: "tokenizers.Tokenizer", *, limit: int, padding_id: int) -> None:
        """`limit`: the model's input limit in tokens, special tokens included. Owns `backend`, changes its settings."""
        backend.no_padding()
        backend.enable_truncation(limit, strategy="longest_first")
        self._backend = backend
        self._longest = limit * _CHARS_PER_TOKEN
        self._limit = limit
        self.padding_id = padding_id

    def pairs(self, query: str, texts: Sequence[str]) -> list[Pair]:
        """The token ids of each pair, and which of them are of the text."""
        asked = self._readable(query)
        return self._backend.encode_batch([(asked, self._readable(text)) for text in texts])

    def _readable(self, text: str) -> str:
        """The part that is tokenized; a lone surrogate is not valid UTF-8."""
        return _SURROGATES.sub("\ufffd", text[: self._longest])

    def inputs(self, pairs: Sequence[Pair], *, step: int = 1) -> dict[str, NDArray[np.int64]]:
        """The arrays of one pass, each of shape (pairs, tokens), padded on the right to a multiple of `step`."""
        shape = (len(pairs), row_length(max(map(len, pairs)), step, self._limit))
        ids = np.full(shape, self.padding_id, np.int64)
        mask, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, pair in enumerate(pairs):
            ids[row, : len(pair)] = pair.ids
            mask[row, : len(pair)] = 1
            types[row, : len(pair)] = pair.type_ids
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


class OpenVinoCrossEncoder(CrossEncoder):
    """Runs a compiled model on a CPU."""

    def __init__(self, compiled: "openvino.CompiledModel", tokenizer: PairTokenizer, inputs: Sequence[str]) -> None:
        """`inputs`: the names of the model's."""
        self.tokenizer = tokenizer
        self._inputs = inputs
        pass_once(compiled, inputs, tokenizer.padding_id)
        self._request: openvino.InferRequest | None = compiled.create_infer_request()

    @override
    def passes(self, query: str, texts: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        pairs = self.tokenizer.pairs(query, texts)
        for batch in pack([len(pair) for pair in pairs], PASS_TOKENS):
            yield batch, self._logits([pairs[index] for index in batch])

    def _logits(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        assert self._request is not None  # noqa: S101 - `close` comes after the last pass
        arrays = self.tokenizer.inputs(pairs, step=shape_step(max(map(len, pairs))))
        self._request.infer({name: arrays[name] for name in self._inputs}, share_inputs=True)
        # A copy: the request overwrites its output in its next pass.
        return np.array(self._request.get_output_tensor(0).data[:, 0], dtype=np.float32)

    @override
    def close(self) -> None:
        self._request = None
