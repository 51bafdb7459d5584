"""One forward pass: the model's input, flat or padded, and the vectors it computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import SpecialTokens, concatenate_sequences, pad
from pipeline.embedding.kernels.varlen_attention import FLAT_ATTENTION, register


@dataclass(frozen=True, slots=True)
class Inputs:
    """One batch as arrays in host memory."""

    arrays: Mapping[str, NDArray[np.int64]]
    special_tokens: SpecialTokens
    texts: int
    """Number of texts, without the filler at the end of a flat row."""
    offsets: NDArray[np.int64] | None
    """Start of each sequence in the flat row, and the end of the last one; None for a padded batch."""


class Forward:
    """A Transformer module of sentence-transformers and the modules after it, run on our own batches.

    Batches are padded until `use_flat_batches`. Safe to call from several threads.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        *,
        padding_id: int,
        dimension: int | None = None,
        unit_length: bool = False,
    ) -> None:
        """`dimension`: leading components kept of each vector; with `unit_length` these are scaled to length 1."""
        self._transformer: Any = modules[0].eval()
        self._head = [module.eval().float() for module in modules[1:]]
        self._padding_id = padding_id
        self._dimension = dimension
        self._unit_length = unit_length
        self.flat = False
        """Whether a batch is one row without padding."""
        self._first_position = 0

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self._transformer.parameters()).dtype  # type: ignore[no-any-return]

    def windows(self) -> set[int]:
        """The sliding windows of the model's layers, in tokens."""
        windows = {getattr(module, "sliding_window", None) for module in self._transformer.modules()}
        return {window for window in windows if isinstance(window, int)}

    def use_flat_batches(self) -> Callable[[], None]:
        """Run batches as one row from now on; returns a function that switches back to padded batches.

        Raises `NotImplementedError` if the model's architecture does not support it.
        """
        model = self._transformer.model
        if not model.is_backend_compatible():
            raise NotImplementedError(f"{type(model).__name__} takes no attention function")
        register()
        self._first_position = first_position(model)
        stock_attention = model.config._attn_implementation

        def use_padded_batches() -> None:
            model.set_attn_implementation(stock_attention)
            self.flat = False

        try:
            model.set_attn_implementation(FLAT_ATTENTION)
        except BaseException:  # some layers may be switched already
            use_padded_batches()
            raise
        self.flat = True
        return use_padded_batches

    def inputs(self, sequences: Sequence[NDArray[np.int32]], special_tokens: SpecialTokens) -> Inputs:
        """Build the batch of these token ids, each surrounded by the special tokens."""
        if not self.flat:
            ids, mask = pad(sequences, self._padding_id, special_tokens)
            return Inputs({"input_ids": ids, "attention_mask": mask}, special_tokens, len(sequences), None)
        batch = concatenate_sequences(sequences, special_tokens, self._first_position)
        arrays = {
            "input_ids": batch.ids[None],
            "position_ids": batch.positions[None],
            "seq_idx": batch.owners[None],
            "cu_seq_lens_q": batch.offsets,
        }
        return Inputs(arrays, special_tokens, len(sequences), batch.offsets)

    @torch.inference_mode()
    def __call__(self, inputs: Inputs, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Vectors of the batch, float32, shape (n, dimension); `tensors` are its arrays on the device."""
        features: dict[str, Any] = dict(tensors)
        if inputs.offsets is not None:
            features["host_offsets"] = torch.from_numpy(inputs.offsets)
            features["cu_seq_lens_q"] = features["cu_seq_lens_q"].int()  # the fused kernel takes int32 only
        if inputs.special_tokens.prompt_tokens:
            features["prompt_length"] = inputs.special_tokens.prompt_tokens
        features = self._transformer(features)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in self._head:
            features = module(features)
        vectors: torch.Tensor = features["sentence_embedding"][: inputs.texts, : self._dimension].float()
        return torch.nn.functional.normalize(vectors, dim=1) if self._unit_length else vectors

    def close(self) -> None:
        """Release the weights."""
        self._head.clear()
        self._transformer = torch.nn.Identity()


def first_position(model: torch.nn.Module) -> int:
    """The first position id: padding id + 1 in the RoBERTa family, else 0; read as sentence-transformers reads it."""
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int) and isinstance(getattr(module, "position_embeddings", None), torch.nn.Embedding):
            return padding + 1
    return 0
