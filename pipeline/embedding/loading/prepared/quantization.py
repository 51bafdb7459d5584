"""Quantization of a converted model to int8 by NNCF, calibrated on texts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding.engine.batching import pad
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.loading.prepared.manifest import Manifest
from pipeline.errors import UsageError

if TYPE_CHECKING:
    import openvino

CALIBRATION_TEXTS = 300
"""Texts that are enough: with more of them vectors do not become better."""
_LEAST_TEXTS = 20
_MAX_TOKENS = 256
"""Of a calibration text: longer ones are cut, which bounds the time."""


def quantized(
    model: "openvino.Model", tokenizer: ModelTokenizer, manifest: Manifest, calibration: str | None
) -> "openvino.Model":
    """The model with weights and activations in int8. Raises UsageError without the extra `int8`, or without texts."""
    try:
        import nncf  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(
            "embedding.dtype is int8, which needs the extra int8: pip install milvus-stream[int8]"
        ) from error
    samples = list(_samples(calibration_texts(calibration), tokenizer, manifest))
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(samples),
    )


def _samples(texts: list[str], tokenizer: ModelTokenizer, manifest: Manifest) -> Iterator[dict[str, NDArray[np.int64]]]:
    special_tokens = tokenizer.special_tokens(query=False)
    longest = min(_MAX_TOKENS, manifest.max_tokens) - special_tokens.count
    for tokens in tokenizer.tokenize(texts):
        ids, mask = pad([tokens.ids[:longest]], manifest.padding_id, special_tokens)
        yield {"input_ids": ids, "attention_mask": mask, **({"pooling_mask": mask} if manifest.masks_prompt else {})}


def calibration_texts(path: str | None) -> list[str]:
    """Texts of a file, one a line, plain or JSON objects with `text`; without a file of the documentation of Python.

    Raises UsageError where there are too few.
    """
    texts = _documentation() if path is None else _from_file(Path(path))
    if len(texts) < _LEAST_TEXTS:
        raise UsageError(f"{path} has {len(texts)} texts: calibration of an int8 model needs {_LEAST_TEXTS} and more")
    step = max(1, len(texts) // CALIBRATION_TEXTS)
    return texts[::step][:CALIBRATION_TEXTS]


def _from_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"calibration texts cannot be read from {path}: {error}") from error
    return [text for line in lines if (text := _text(line))]


def _text(line: str) -> str:
    try:
        parsed: Any = json.loads(line)
    except ValueError:
        return line.strip()
    text = parsed.get("text", "") if isinstance(parsed, dict) else line
    return str(text).strip()


def _documentation() -> list[str]:
    from pydoc_data.topics import topics  # noqa: PLC0415 - a megabyte of text

    return [part.strip() for text in topics.values() for part in text.split("\n\n") if len(part.strip()) > 40]
