"""Operations counted by hand against those torch counts, and the peak of this machine."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BertConfig, Gemma3TextConfig, ModernBertConfig, Qwen3Config

from pipeline.embedding.kernels.roofline import cost_of, forward_cost, matmul_peak
from tests.unit.pipeline.embedding.tiny_models import build, minilm

_SMALL: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "attn_implementation": "eager",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "causal"),
    [
        (BertConfig(**_SMALL), False),
        (ModernBertConfig(**_SMALL, pad_token_id=0, local_attention=128), False),
        (Qwen3Config(**_SMALL, num_key_value_heads=2, head_dim=8), True),
    ],
    ids=["bert", "modernbert", "qwen3"],
)
def test_the_cost_is_what_torch_counts(config: Any, causal: bool) -> None:
    model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    ids = torch.ones(2, 24, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    cost = cost_of(config)
    assert cost.causal == causal
    pooler = 2 * 2 * 32 * 32 if "Bert" in type(config).__name__ and not causal and hasattr(model, "pooler") else 0
    # What torch runs is the whole square of scores, also where a causal model leaves half of it out.
    whole = cost.flops(np.array([24, 24])) + causal * 3 * 4 * 32 * (2 * 24 * 24) / 2
    assert whole == pytest.approx(counter.get_total_flops() - pooler, rel=0.01)


def test_a_token_attends_to_its_window_only() -> None:
    config = Gemma3TextConfig(
        **_SMALL, head_dim=8, sliding_window=8, use_bidirectional_attention=True,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    cost = cost_of(config)
    assert config.sliding_window is not None
    window = 2 * config.sliding_window - 1
    assert cost.windows == (window, None, window)
    long, short = np.array([40]), np.array([4])
    attention = cost.flops(long) - 40 * cost.per_token
    assert attention == 4 * 32 * 40 * (40 + 2 * window)
    assert cost.flops(short) - 4 * cost.per_token == 4 * 32 * 4 * 12


def test_the_real_model_costs_what_is_known_of_it() -> None:
    cost = forward_cost(minilm())
    assert cost.per_token == pytest.approx(21.23e6, rel=0.001)
    assert cost.flops(np.array([128])) == pytest.approx(2.87e9, rel=0.01)


def test_a_model_is_not_read_to_be_counted(tmp_path: Any) -> None:
    folder = build("bert-mean", tmp_path)
    (folder / "model.safetensors").unlink()
    assert forward_cost(folder).per_token > 0


def test_the_peak_is_measured_and_leaves_torch_as_it_was() -> None:
    before = torch.get_num_threads()
    assert matmul_peak("float32", "cpu", workers=2, threads=1, seconds=0.15) > 1e8
    assert torch.get_num_threads() == before
