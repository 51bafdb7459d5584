"""The folder of a cross-encoder: checked before anything is loaded from it, and hashed. No torch is imported."""

import json
from pathlib import Path

from pipeline.embedding.loading.model_files import (
    check_transformer,
    digest_of,
    digest_settings,
    vocabulary_of,
    weights_of,
)
from pipeline.embedding.loading.prepared.folder import Request
from pipeline.errors import UsageError

_ARCHITECTURE = "ForSequenceClassification"


def cross_encoder_request(name: str, folder: Path) -> Request:
    """What preparing the cross-encoder in a folder takes. Raises `UsageError` unless it is one and safe to load."""
    check_transformer(folder)
    _check_head(folder)
    digest = digest_of([("kind", "cross-encoder"), *weights_of(folder), *vocabulary_of(folder)])
    source = digest_settings(folder, digest, [""])
    return Request(name, str(folder), digest, source, "float", kind="cross-encoder")


def _check_head(folder: Path) -> None:
    """Raise `UsageError` unless the model has a head that gives one number."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise UsageError(
            f"query.rerank.model: {folder / 'config.json'} is no JSON object: save or copy the model again"
        )
    architectures = config.get("architectures")
    if not isinstance(architectures, list):
        architectures = []
    if not any(str(name).endswith(_ARCHITECTURE) for name in architectures):
        found = ", ".join(map(str, architectures)) or "nothing"
        raise UsageError(
            f"query.rerank.model: {folder} is no cross-encoder: its config.json names {found}, not a model "
            f"…{_ARCHITECTURE}"
        )
    labels = config.get("id2label")
    count = config.get("num_labels", len(labels) if isinstance(labels, dict) and labels else 2)
    if count != 1:
        raise UsageError(
            f"query.rerank.model: the model in {folder} has {count} labels; a reranker has one number for each text"
        )
