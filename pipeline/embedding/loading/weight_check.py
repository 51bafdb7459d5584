"""Whether a model's files hold all of its weights: transformers fills what is missing with random numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

_UNUSED = "pooler."
"""A head that many checkpoints leave out; sentence embeddings do not pass through it."""


def missing_weights(model: Any, place: Path) -> list[str]:
    """Names of the parameters of this transformers model that were not in the folder it was loaded from.

    Such a model would give other vectors in every process, under one and the same digest.
    """
    stored = set(_stored(place))
    prefix = f"{model.base_model_prefix}."
    known = stored | {name.removeprefix(prefix) for name in stored}
    wanted = {name for name, _ in model.named_parameters() if not name.startswith(_UNUSED)}
    if wanted <= known:
        return []
    # Names can differ from release to release. transformers knows how, and tells only while loading.
    _, told = type(model).from_pretrained(
        place, config=model.config, dtype=model.dtype, local_files_only=True, use_safetensors=True,
        output_loading_info=True,
    )  # fmt: skip
    return sorted(name for name in told["missing_keys"] if not name.startswith(_UNUSED))


def _stored(place: Path) -> Iterator[str]:
    for path in place.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            yield from file.keys()
