"""The work of `milvus-stream model`: prepare, list and remove."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from consumers.cli.common.output import stdout, table
from consumers.config import Settings
from consumers.wiring.documents import embedder, embedding_settings
from pipeline.embedding import (
    PreparedModel,
    PreparedModels,
    Refused,
    prepared_cross_encoder,
    prepared_model,
    unrelated_similarity,
)
from pipeline.errors import NotFound, UsageError

_MIB = 2**20


def prepare(settings: Settings) -> dict[str, Any]:
    """Prepare the configured model, and measure what query workers need of it beside its vectors.

    Raises UsageError where OpenVINO cannot run it.
    """
    wanted = embedding_settings(settings)
    try:
        model = prepared_model(wanted)
    except Refused as refused:
        raise UsageError(
            f"OpenVINO cannot run {wanted.model}: {refused}. Workers run it with torch, which needs no preparation"
        ) from refused
    with embedder(settings, queries_first=True) as loaded:
        unrelated_similarity(loaded, wanted)
    return _described(model, usable=True)


def prepare_reranker(settings: Settings) -> dict[str, Any]:
    """Prepare the configured cross-encoder. Raises UsageError where there is none, or OpenVINO cannot run it."""
    section = settings.query.rerank
    if section.model is None or section.url is not None:
        raise UsageError("query.rerank.model names no model of this machine: set it, and no query.rerank.url")
    return _described(prepared_cross_encoder(section.model, embedding_settings(settings)), usable=True)


def listed(settings: Settings) -> list[dict[str, Any]]:
    """Every prepared model, by name."""
    models = _models(settings)
    return [_described(model, usable=models.usable(model)) for model in models.all()]


def remove(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Delete the prepared models of a name or id. Raises NotFound."""
    models = _models(settings)
    chosen = [model for model in models.all() if name in (model.manifest.name, model.folder.name)]
    if not chosen:
        raise NotFound(f"no model {name!r} is prepared in {models.folder}: see `milvus-stream model list`")
    removed = [_described(model, usable=models.usable(model)) for model in chosen]
    for model in chosen:
        models.remove(model)
    return removed


def show_prepared(model: Mapping[str, Any]) -> None:
    """One line for people."""
    sys.stdout.write(
        f"{model['model']} ({model['kind']}, {model['precision']}, {model['dimension']} dimensions, "
        f"{model['bytes'] / _MIB:.0f} MiB) is prepared in {model['folder']}\n"
    )


def show_list(models: Sequence[Mapping[str, Any]]) -> None:
    """A table for people."""
    if not models:
        sys.stdout.write("no model is prepared here\n")
        return
    columns = ("model", "kind", "precision", "dimensions", "tokens", "MiB", "OpenVINO", "id")
    rows = [
        (
            model["model"],
            model["kind"],
            model["precision"],
            model["dimension"],
            model["max_tokens"],
            f"{model['bytes'] / _MIB:.0f}",
            model["openvino"] + ("" if model["usable"] else " (not this one: prepared again when needed)"),
            model["id"],
        )
        for model in models
    ]
    stdout().print(table(columns, rows))


def show_removed(models: Sequence[Mapping[str, Any]]) -> None:
    """One line for each model removed."""
    for model in models:
        sys.stdout.write(f"removed {model['id']} ({model['model']}, {model['bytes'] / _MIB:.0f} MiB)\n")


def _models(settings: Settings) -> PreparedModels:
    return PreparedModels(embedding_settings(settings).models_folder)


def _described(model: PreparedModel, *, usable: bool) -> dict[str, Any]:
    manifest = model.manifest
    return {
        "id": model.folder.name,
        "model": manifest.name,
        "kind": manifest.kind,
        "precision": manifest.precision,
        "dimension": manifest.dimension,
        "pooling": manifest.pooling,
        "max_tokens": manifest.max_tokens,
        "digest": manifest.digest,
        "bytes": model.size,
        "openvino": manifest.versions.get("openvino", ""),
        "usable": usable,
        "folder": str(model.folder),
    }
