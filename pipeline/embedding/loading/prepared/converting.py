"""The steps that every conversion for OpenVINO has: read a module, save it, compare it, and try the next way."""

import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import openvino
import torch

from pipeline.embedding.loading.prepared.manifest import MODEL_FILE, Manifest
from pipeline.errors import UsageError

_PACKAGES = ("openvino", "torch", "transformers", "sentence-transformers")
_MOST_ROWS = 65_536


def converted(
    module: torch.nn.Module,
    names: Sequence[str],
    manifest: Manifest,
    destination: Path,
    *,
    set_attention: Callable[[str], object],
    compare: Callable[[], None],
) -> openvino.Model:
    """The module for any number and length of rows, compared and saved; the first of `_WAYS` that is right.

    `names`: of its inputs in their order. `compare` raises UsageError where the saved model gives other results than
    the module. Of a window that hides every token of a padded row, OpenVINO's fused attention makes NaN. Attention in
    single steps is slower and has no such case. Raises UsageError where no way is right.
    """
    reasons = []
    for attention, convert_module in _WAYS:
        try:
            set_attention(attention)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracing, which torch is about to replace
                model = convert_module(module, names, manifest)
            save(model, destination)
            compare()
        # Converter, exporter and the model's code are foreign: any of these means that they do not fit together.
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            reasons.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        except UsageError as error:
            reasons.append(str(error))
        else:
            return model
    raise UsageError("; ".join(dict.fromkeys(reasons)))


def save(model: openvino.Model, destination: Path) -> None:
    """Write the model into its folder."""
    openvino.save_model(model, destination / MODEL_FILE, compress_to_fp16=False)


def compiled_exactly(destination: Path) -> openvino.CompiledModel:
    """The saved model, compiled for float32 and one pass at a time."""
    options = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
    return openvino.Core().compile_model(destination / MODEL_FILE, "CPU", options)


def converter_versions() -> dict[str, str]:
    """The packages that convert, for the manifest."""
    return {name: version(name) for name in _PACKAGES}


def _example(padding_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of two rows of which one is padded, so that nothing that depends on the mask is a constant."""
    ids = torch.full((2, 9), padding_id, dtype=torch.int64)
    ids[:, :5] = 1 + padding_id
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask


def _inputs(names: Sequence[str], ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the example has for each input; token types are zeros, of which every model has an embedding."""
    values = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    return tuple(values.get(name, mask) for name in names)


def _traced(model: torch.nn.Module, names: Sequence[str], manifest: Manifest) -> openvino.Model:
    """The model as its operations were called once."""
    ids, mask = _example(manifest.padding_id)
    with torch.inference_mode():
        return openvino.convert_model(
            model,
            example_input=dict(zip(names, _inputs(names, ids, mask), strict=True)),
            input=[(name, openvino.PartialShape([-1, -1]), openvino.Type.i64) for name in names],
        )


def _exported(model: torch.nn.Module, names: Sequence[str], manifest: Manifest) -> openvino.Model:
    """The model as torch's exporter gives it: three times as slow as tracing, for what tracing does not take."""
    ids, mask = _example(manifest.padding_id)
    rows = torch.export.Dim("rows", min=1, max=_MOST_ROWS)
    tokens = torch.export.Dim("tokens", min=2, max=manifest.max_tokens)
    exported = torch.export.export(
        model,
        _inputs(names, ids, mask),
        dynamic_shapes=tuple({0: rows, 1: tokens} for _ in names),
        strict=False,
    )
    converted = openvino.convert_model(exported)
    for port, name in zip(converted.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    return converted


_WAYS = (("sdpa", _traced), ("eager", _traced), ("sdpa", _exported), ("eager", _exported))
"""Attention functions of transformers, and how the model is read; the fastest first."""
