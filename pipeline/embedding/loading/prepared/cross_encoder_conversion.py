"""The conversion of a cross-encoder for OpenVINO; runs in the process of the conversion."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.embedding.engine.cross_encoder import OpenVinoCrossEncoder, PairTokenizer
from pipeline.embedding.engine.forward_pass import first_position
from pipeline.embedding.loading.cross_encoder import PAIR_PROBES, input_names, logit_distance, probe_logits
from pipeline.embedding.loading.prepared.converting import compiled_exactly, converted, converter_versions
from pipeline.embedding.loading.prepared.folder import Request
from pipeline.embedding.loading.prepared.manifest import (
    REFERENCE_FILE,
    TOKENIZER_FILE,
    Manifest,
    file_digests,
    write_manifest,
)
from pipeline.embedding.loading.weight_check import missing_weights
from pipeline.errors import UsageError

_MOST_DISTANCE = 1e-3
"""Greatest distance of a converted model's logit to torch's, relative to the largest one or to 1."""
_UNKNOWN_LIMIT = 1_000_000


class _Logits(torch.nn.Module):
    """A cross-encoder from token ids to logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        logits: torch.Tensor = self._model(**inputs).logits
        return logits


def convert_cross_encoder(request: Request, destination: Path) -> None:
    """Write the prepared model into the destination. Raises UsageError where the model cannot be converted."""
    folder = Path(request.folder)
    model, tokenizer = _loaded(folder)
    limit = _limit(model, tokenizer, folder)
    token_types = (
        "token_type_ids" in tokenizer.model_input_names
        and "token_type_ids" in inspect.signature(model.forward).parameters
    )
    names = input_names(token_types=token_types)
    padding_id = tokenizer.pad_token_id or 0
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.save(str(destination / TOKENIZER_FILE))
    pairs = PairTokenizer(tokenizer.backend_tokenizer, limit=limit, padding_id=padding_id)
    module = _Logits(model).eval()
    reference = np.concatenate([_by_torch(module, pairs, names, query, texts) for query, texts in PAIR_PROBES])
    np.save(destination / REFERENCE_FILE, reference)
    manifest = Manifest(
        name=request.name,
        digest=request.digest,
        precision=request.precision,
        dimension=1,
        pooling="none",
        max_tokens=limit,
        padding_id=padding_id,
        document_prompt="",
        query_prompt="",
        masks_prompt=False,
        unit_length=False,
        truncated=False,
        versions=converter_versions(),
        kind="cross-encoder",
        token_types=token_types,
    )

    def compare() -> None:
        found = probe_logits(OpenVinoCrossEncoder(compiled_exactly(destination), pairs, names))
        if not (distance := logit_distance(found, reference)) <= _MOST_DISTANCE:  # true for NaN
            raise UsageError(f"the converted model's logits differ from the model's by {distance:.1e} of the largest")

    converted(module, names, manifest, destination, set_attention=model.set_attn_implementation, compare=compare)
    write_manifest(destination, replace(manifest, files=file_digests(destination)))


def _loaded(folder: Path) -> tuple[Any, Any]:
    """The model in float32, and its tokenizer. Raises UsageError for files that are damaged or incomplete."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    safely: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, **safely
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
    # Damaged files make the library raise any of these.
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError, SafetensorError
    ) as error:  # fmt: skip
        raise UsageError(f"the model in {folder} cannot be loaded: {' '.join(str(error).split())}") from error
    if missing := missing_weights(model, folder):
        raise UsageError(
            f"the weights in {folder} are not whole: {len(missing)} are missing, {missing[0]} first; save or copy the "
            "model again"
        )
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"the model in {folder} has no fast tokenizer (tokenizer.json)")
    return model.eval(), tokenizer


def _limit(model: Any, tokenizer: Any, folder: Path) -> int:
    """The input limit in tokens: that of the tokenizer, but never more than the model has positions for."""
    limits = [tokenizer.model_max_length]
    if (positions := getattr(model.config, "max_position_embeddings", None)) is not None:
        limits.append(positions - first_position(model))
    if (limit := int(min(limits))) > _UNKNOWN_LIMIT:
        raise UsageError(f"{folder} does not say how many tokens the model reads: set model_max_length in its "
                         "tokenizer_config.json")  # fmt: skip
    return limit


def _by_torch(
    module: torch.nn.Module, tokenizer: PairTokenizer, names: Sequence[str], query: str, texts: Sequence[str]
) -> NDArray[np.float32]:
    """The logits of some texts by the model itself, each alone, so that padding cannot change them."""
    logits = []
    for pair in tokenizer.pairs(query, texts):
        arrays = tokenizer.inputs([pair])
        with torch.inference_mode():
            logits.append(float(module(*(torch.from_numpy(arrays[name]) for name in names))[0, 0]))
    return np.array(logits, dtype=np.float32)
