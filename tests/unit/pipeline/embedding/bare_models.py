"""Models with random weights of every architecture that is run flat, without tokenizers or files."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    NomicBertConfig,
    NomicBertModel,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.device_transfer import HostTransfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.loading.flat_batches import enable_flat_batches
from pipeline.records import Tokens

HIDDEN = 32
VOCABULARY = 300
PADDING = 1
LONGEST = 120
WINDOW = 90
"""Of the models with a sliding window; those that are not causal reach half as far."""
SPECIAL_TOKENS = SpecialTokens(np.array([5], dtype=np.int32), np.array([6, 7], dtype=np.int32), 0)
_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": LONGEST + 10,
    "pad_token_id": PADDING,
}
_GROUPED: dict[str, Any] = {**_SMALL, "num_key_value_heads": 2, "head_dim": 8, "layer_types": None}
_DISTIL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "dim": HIDDEN, "n_layers": 2, "n_heads": 4, "hidden_dim": 64,
    "max_position_embeddings": LONGEST + 10, "pad_token_id": PADDING,
}  # fmt: skip
_WINDOWED: dict[str, Any] = {
    **_GROUPED, "sliding_window": WINDOW, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "query_pre_attn_scalar": 20,
}  # fmt: skip


def _modernbert() -> ModernBertModel:
    special: dict[str, Any] = {
        "global_attn_every_n_layers": 3,
        "eos_token_id": 2,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "sep_token_id": 2,
    }
    return ModernBertModel(ModernBertConfig(**_SMALL, **special, local_attention=WINDOW))


FLAT: dict[str, tuple[Callable[[], Any], str]] = {
    "bert": (lambda: BertModel(BertConfig(**_SMALL)), "mean"),
    "xlm-roberta": (lambda: XLMRobertaModel(XLMRobertaConfig(**_SMALL)), "cls"),
    "distilbert": (lambda: DistilBertModel(DistilBertConfig(**_DISTIL)), "max"),
    "modernbert": (_modernbert, "cls"),
    "qwen3": (lambda: Qwen3Model(Qwen3Config(**_GROUPED)), "lasttoken"),
    "gemma3": (lambda: Gemma3TextModel(Gemma3TextConfig(**_WINDOWED, use_bidirectional_attention=True)), "mean"),
    "gemma3-causal": (lambda: Gemma3TextModel(Gemma3TextConfig(**_WINDOWED)), "lasttoken"),
    "nomic-bert": (lambda: NomicBertModel(NomicBertConfig(**_SMALL)), "weightedmean"),
}


class _Transformer(torch.nn.Module):
    """The part of sentence-transformers' module that a forward pass needs."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        given = {key: value for key, value in features.items() if key != "prompt_length"}
        return {**features, "token_embeddings": self.model(**given).last_hidden_state}


def forward_of(model: Any, pooling: str) -> Forward:
    """The model with weights that tell texts apart, padded for the time being."""
    torch.manual_seed(7)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=1.0 if "embed" in name else 0.3)
    return Forward([_Transformer(model), Pooling(model.config.hidden_size, pooling)], padding_id=PADDING)


def mpnet() -> Forward:
    """A model that knows no attention functions."""
    return forward_of(MPNetModel(MPNetConfig(**_SMALL)), "mean")


def texts(lengths: list[int]) -> list[NDArray[np.int32]]:
    """A text of each length; each starts with another token."""
    return [(np.arange(length, dtype=np.int32) * 7 + 31 * at) % 280 + 10 for at, length in enumerate(lengths)]


def vectors(forward: Forward, lengths: list[int]) -> NDArray[np.float32]:
    """Vectors of texts of these lengths, in one pass."""
    inputs = forward.inputs(texts(lengths), SPECIAL_TOKENS)
    return forward(inputs, HostTransfer().upload(inputs.arrays)).numpy()


class Words:
    """The part of a model's tokenizer that the check of flat batches needs."""

    def special_tokens(self, *, query: bool) -> SpecialTokens:
        return SPECIAL_TOKENS

    def tokenize(self, given: list[str]) -> list[Tokens]:
        none = np.empty(0, dtype=np.int32)
        return [Tokens(ids, none, none) for ids in texts([20] * len(given))]


def flat_batches_log(forward: Forward, capsys: pytest.CaptureFixture[str]) -> str:
    """Enable flat batches and return what was logged."""
    words: Any = Words()
    enable_flat_batches(forward, HostTransfer(), words, limit=LONGEST, name="tiny")
    return capsys.readouterr().out
