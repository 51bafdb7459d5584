"""One forward pass: what the model gets, flat or padded, and the vectors it gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import SpecialTokens, concatenate_sequences, pad
from pipeline.embedding.kernels.device import SHAPE_STEP, multiplied_by_onednn
from pipeline.embedding.kernels.packed_weights import pack_weights
from pipeline.embedding.kernels.varlen_attention import FLAT_ATTENTION, register


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch as numbers in the host's memory."""

    arrays: Mapping[str, NDArray[np.int64]]
    around: SpecialTokens
    texts: int
    """How many; a last one that only fills the row is not counted."""
    offsets: NDArray[np.int64] | None
    """Where each document of the row begins, and where the last one ends; None where the batch is padded."""


class Forward:
    """A Transformer module of sentence-transformers and those behind it, run on own batches.

    Padded until `use_flat_batches`, and with weights as they are until `pack_weights`. Safe to call from several threads.
    """

    def __init__(
        self,
        modules: Sequence[torch.nn.Module],
        *,
        padding_id: int,
        dimension: int | None = None,
        unit_length: bool = False,
    ) -> None:
        """`modules` in order; of longer vectors the first `dimension` values count, with `unit_length` scaled to 1."""
        self._transformer: Any = modules[0].eval()
        self._head = [module.eval().float() for module in modules[1:]]
        self._padding_id = padding_id
        self._dimension = dimension
        self._unit_length = unit_length
        self.flat = False
        """Whether batches are one row without padding."""
        self.packed = False
        """Whether weights are laid out for the processor."""
        self._first_position = 0
        weights = next(self._transformer.parameters())
        self._step = SHAPE_STEP if weights.device.type == "cpu" and multiplied_by_onednn(weights.dtype) else 1

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self._transformer.parameters()).dtype  # type: ignore[no-any-return]

    def windows(self) -> set[int]:
        """The sliding windows of the model's layers, in tokens."""
        found = {getattr(module, "sliding_window", None) for module in self._transformer.modules()}
        return {window for window in found if isinstance(window, int)}

    def use_flat_batches(self) -> Callable[[], None]:
        """Run batches as one row from now on, until what comes back is called.

        Raises `NotImplementedError` if the model's kind does not allow it.
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
        except BaseException:  # it may be half done
            use_padded_batches()
            raise
        self.flat = True
        return use_padded_batches

    def pack_weights(self) -> Callable[[], None]:
        """Lay the weights out for the processor, until what comes back is called; raises as `pack_weights` does."""
        undo = pack_weights(self._transformer)
        self.packed = True

        def unpack() -> None:
            undo()
            self.packed = False

        return unpack

    def compile(self) -> None:
        """Have torch make machine code of the model in its next pass."""
        model = self._transformer.model
        model.forward = torch.compile(model.forward, dynamic=True)

    def inputs(self, sequences: Sequence[NDArray[np.int32]], around: SpecialTokens) -> Inputs:
        """The batch of these token ids, each put between what stands `around` it."""
        if not self.flat:
            ids, mask = pad(sequences, self._padding_id, around)
            return Inputs({"input_ids": ids, "attention_mask": mask}, around, len(sequences), None)
        row = concatenate_sequences(sequences, around, self._first_position, step=self._step)
        arrays = {
            "input_ids": row.ids[None],
            "position_ids": row.positions[None],
            "seq_idx": row.owners[None],
            "cu_seq_lens_q": row.offsets,
        }
        return Inputs(arrays, around, len(sequences), row.offsets)

    @torch.inference_mode()
    def __call__(self, inputs: Inputs, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Vectors of the batch whose arrays stand on the device as `tensors`; float32, shape (n, dimension)."""
        features: dict[str, Any] = dict(tensors)
        if inputs.offsets is not None:
            features["host_offsets"] = torch.from_numpy(inputs.offsets)
            features["cu_seq_lens_q"] = features["cu_seq_lens_q"].int()  # what the fused kernel takes
        if inputs.around.prompt_tokens:
            features["prompt_length"] = inputs.around.prompt_tokens
        features = self._transformer(features)
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in self._head:
            features = module(features)
        vectors: torch.Tensor = features["sentence_embedding"][: inputs.texts, : self._dimension].float()
        return torch.nn.functional.normalize(vectors, dim=1) if self._unit_length else vectors

    def close(self) -> None:
        """Let go of the weights."""
        self._head.clear()
        self._transformer = torch.nn.Identity()


def first_position(model: torch.nn.Module) -> int:
    """The RoBERTa family counts positions from behind the padding id; found as sentence-transformers finds it."""
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        if isinstance(padding, int) and isinstance(getattr(module, "position_embeddings", None), torch.nn.Embedding):
            return padding + 1
    return 0
