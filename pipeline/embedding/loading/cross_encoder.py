"""Load a cross-encoder: found on this machine, prepared for OpenVINO once, compiled and compared; runs on the CPU."""

import time
from typing import Any

import numpy as np
import openvino
import structlog
import tokenizers
from numpy.typing import NDArray

from pipeline.embedding.embedder import EmbeddingSettings
from pipeline.embedding.engine.cross_encoder import CrossEncoder, OpenVinoCrossEncoder, PairTokenizer
from pipeline.embedding.kernels.processor import available_cpus
from pipeline.embedding.loading.cross_encoder_files import cross_encoder_request
from pipeline.embedding.loading.model_files import find_model
from pipeline.embedding.loading.openvino_model import has_native_bf16
from pipeline.embedding.loading.prepared.folder import PreparedModel, PreparedModels, Refused
from pipeline.embedding.loading.prepared.manifest import MODEL_FILE, REFERENCE_FILE, SETTINGS, TOKENIZER_FILE
from pipeline.embedding.loading.prepared.prepare import prepared
from pipeline.errors import UsageError

PAIR_PROBES = (
    ("what does the fox do", ("The quick brown fox jumps over the lazy dog.", "Refunds take 14 days.", "A")),
    ("refund failed", ("The quick brown fox jumps over the lazy dog, 27 times. " * 40, "The refund failed twice.")),
)
"""Queries and texts, short ones and one that is cut, for which every engine must give the model's logits."""
_SETTING = SETTINGS["cross-encoder"]
_MOST_DISTANCE = {"f32": 1e-3, "bf16": 0.1}

log = structlog.get_logger(__name__)


def load_cross_encoder(model: str, settings: EmbeddingSettings) -> CrossEncoder:
    """Load the cross-encoder that `query.rerank.model` names; its first load takes up to minutes; uses no network.

    Cache folder, threads and precision are those of the embedding model. Raises `UsageError` if the model is not on
    this machine, is no cross-encoder, holds code or pickled weights, or if OpenVINO cannot run it; the message says
    what to do. `MilvusStreamError` if the conversion fails otherwise.
    """
    started = time.perf_counter()
    found = prepared_cross_encoder(model, settings)
    manifest = found.manifest
    tokenizer = PairTokenizer(
        tokenizers.Tokenizer.from_file(str(found.folder / TOKENIZER_FILE)),
        limit=manifest.max_tokens,
        padding_id=manifest.padding_id,
    )
    precision = "bf16" if settings.dtype != "float32" and has_native_bf16() else "f32"
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(settings.threads or available_cpus()),
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        compiled = openvino.Core().compile_model(found.folder / MODEL_FILE, "CPU", options)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise UsageError(f"{_SETTING}: OpenVINO cannot compile the model in {found.folder}: {why}") from error
    encoder = OpenVinoCrossEncoder(compiled, tokenizer, input_names(token_types=manifest.token_types))
    reference = np.load(found.folder / REFERENCE_FILE, allow_pickle=False)
    if not (distance := logit_distance(probe_logits(encoder), reference)) <= _MOST_DISTANCE[precision]:
        encoder.close()
        raise UsageError(
            f"{_SETTING}: the model prepared in {found.folder} gives wrong logits on this machine (they differ by "
            f"{distance:.1e} of the largest, {precision}): set embedding.dtype to float32, or use another model"
        )
    seconds = round(time.perf_counter() - started, 2)
    log.info("reranker.loaded", model=model, digest=manifest.digest[:12], max_tokens=manifest.max_tokens,
             precision=precision, seconds=seconds)  # fmt: skip
    return encoder


def prepared_cross_encoder(model: str, settings: EmbeddingSettings) -> PreparedModel:
    """The cross-encoder prepared for OpenVINO; prepares it where it is not. Raises as `load_cross_encoder`."""
    models = PreparedModels(settings.models_folder)
    try:
        folder = find_model(model, _SETTING)
    except UsageError:
        if (found := models.named(model, "float", "cross-encoder")) is not None:
            return found
        raise
    try:
        return prepared(models, cross_encoder_request(model, folder))
    except Refused as refused:
        raise UsageError(
            f"{_SETTING}: OpenVINO cannot run {model}: {refused}. Use another cross-encoder, or serve this one by a "
            "program such as TEI and set query.rerank.url"
        ) from refused


def input_names(*, token_types: bool) -> list[str]:
    """The inputs of a prepared cross-encoder."""
    return ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]


def probe_logits(encoder: CrossEncoder) -> NDArray[np.float32]:
    """The logits of all probes."""
    return np.concatenate([logits_of(encoder, query, texts) for query, texts in PAIR_PROBES])


def logits_of(encoder: CrossEncoder, query: str, texts: tuple[str, ...]) -> NDArray[np.float32]:
    """The logits of some texts in their order."""
    logits = np.empty(len(texts), dtype=np.float32)
    for batch, found in encoder.passes(query, texts):
        logits[batch] = found
    return logits


def logit_distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The greatest difference, relative to the largest logit expected or to 1."""
    return float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
