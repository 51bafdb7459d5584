"""Models whose files are damaged, or wrong in a way that only loading shows: refused, never run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.embedding import EmbeddingSettings, load_embedder
from pipeline.errors import UsageError
from tests.unit.pipeline.embedding import loaded_models
from tests.unit.pipeline.embedding.tiny_models import build

WEIGHTS = "model.safetensors"
MIDDLE = "encoder.layer.1.output.dense.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build("bert-mean", tmp_path)


def settings(folder: Path) -> EmbeddingSettings:
    return loaded_models.settings(folder, threads=1, token_budget=256)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def cut_in_half(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def of_another_size(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 64}))


def of_an_unknown_kind(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "frobnicator"}))


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights that are no safetensors": (lambda folder: (folder / WEIGHTS).write_bytes(b"weights"), "cannot be loaded"),
    "weights that end early": (cut_in_half, "cannot be loaded"),
    "a weight missing": (lambda folder: rewrite(folder, lambda weights: weights.pop(MIDDLE)), MIDDLE),
    "weights of another size": (of_another_size, "cannot be loaded"),
    "an unknown architecture": (of_an_unknown_kind, "frobnicator"),
    "an unknown pooling": (
        lambda folder: (folder / "1_Pooling" / "config.json").write_text(
            json.dumps({"embedding_dimension": 32, "pooling_mode": "median"})
        ),
        "median",
    ),
    "pooling settings without a dimension": (
        lambda folder: (folder / "1_Pooling" / "config.json").write_text("{}"),
        "embedding_dimension",
    ),
    "a tokenizer of another kind": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_it_is_refused_in_one_line(case: str, folder: Path) -> None:
    damage, message = DAMAGED[case]
    damage(folder)
    with pytest.raises(UsageError, match=message) as refused:
        load_embedder(settings(folder))
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_under_the_names_of_a_larger_model_are_whole(folder: Path) -> None:
    before = load_embedder(settings(folder))

    def as_a_part(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            value = weights.pop(name)
            if not name.startswith("pooler."):  # which many checkpoints do not have
                weights[f"bert.{name}"] = value

    rewrite(folder, as_a_part)
    after = load_embedder(settings(folder))
    texts = ["the quick brown fox", "a"]
    assert np.allclose(before.embed_queries(texts), after.embed_queries(texts), atol=1e-6)
    before.close()
    after.close()


def test_names_that_only_transformers_can_map_are_mapped(folder: Path) -> None:
    before = load_embedder(settings(folder))
    rewrite(
        folder,
        lambda weights: weights.update({"embeddings.LayerNorm.gamma": weights.pop("embeddings.LayerNorm.weight")}),
    )
    after = load_embedder(settings(folder))
    assert np.allclose(before.embed_queries(["a fox"]), after.embed_queries(["a fox"]), atol=1e-6)
    before.close()
    after.close()
