"""Check that a model's files hold all of its weights: transformers fills missing ones with random numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

_UNUSED = "pooler."
"""A head that many checkpoints leave out; sentence embeddings do not pass through it."""


def missing_weights(model: Any, folder: Path) -> list[str]:
    """Names of this transformers model's parameters that the folder it was loaded from does not hold.

    Such a model would give different vectors in every process, under one and the same digest.
    """
    stored = set(_stored_names(folder))
    prefix = f"{model.base_model_prefix}."
    known = stored | {name.removeprefix(prefix) for name in stored}
    needed = {name for name, _ in model.named_parameters() if not name.startswith(_UNUSED)}
    if needed <= known:
        return []
    # Parameter names change between releases. Only transformers can map them, and reports it only while loading.
    _, loading_info = type(model).from_pretrained(
        folder, config=model.config, dtype=model.dtype, local_files_only=True, use_safetensors=True,
        output_loading_info=True,
    )  # fmt: skip
    return sorted(name for name in loading_info["missing_keys"] if not name.startswith(_UNUSED))


def _stored_names(folder: Path) -> Iterator[str]:
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            yield from file.keys()
