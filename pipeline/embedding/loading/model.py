"""Load a model in five steps: find its files, check them, load them, tune the execution, verify the vectors."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import Normalize

from pipeline.embedding.embedder import EmbeddingSettings, ModelStamp
from pipeline.embedding.engine.batch_runner import BatchPlan, BatchRunner
from pipeline.embedding.engine.device_transfer import CudaTransfer, HostTransfer, Transfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.engine.transformer_embedder import TransformerEmbedder
from pipeline.embedding.kernels.device import (
    available_cpus,
    cap_memory,
    enable_onednn_float32,
    resolve_device,
    resolve_dtype,
    uses_onednn,
)
from pipeline.embedding.kernels.roofline import processor_name
from pipeline.embedding.loading.autotune import rate_of, tune_cpu, tune_gpu
from pipeline.embedding.loading.checkpoint import (
    PROBES,
    input_limit,
    load_checkpoint,
    model_tokenizer,
    pooling_name,
    reference_vectors,
)
from pipeline.embedding.loading.compilation import compile_model
from pipeline.embedding.loading.fast_paths import enable_fast_paths
from pipeline.embedding.loading.model_files import check_model, digest_model, find_model
from pipeline.embedding.loading.tuning_cache import TuningCache
from pipeline.errors import UsageError
from pipeline.records import Chunk

_MIN_COSINE = 0.998
"""Least cosine to sentence-transformers' own vectors; batch shapes alone move bfloat16 to 0.9999."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where, and in which precision, the model runs."""

    device: torch.device
    dtype: torch.dtype
    cores: int
    onednn_float32: bool
    """Whether oneDNN, not MKL, makes the float32 products."""

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True, slots=True)
class _LoadedModel:
    """A loaded model as the parts that the engine runs."""

    stamp: ModelStamp
    tokenizer: ModelTokenizer
    forward: Forward
    transfer: Transfer
    reference: NDArray[np.float32]
    """The probes' vectors by sentence-transformers itself."""


def load_model(settings: EmbeddingSettings) -> TransformerEmbedder:
    """Load what `settings.model` names; raises `UsageError` if it is not here, not safe or of an unsupported kind.

    Measuring takes some two seconds where the tuning cache does not know this model on this device.
    """
    folder = find_model(settings.model)
    check_model(folder)
    target = _resolve_target(settings)
    model = _load(folder, settings, target)
    plan = _tune(model, settings, target)
    if settings.compile:
        compile_model(model.forward, model.transfer, model.tokenizer, plan)
    runner = BatchRunner(model.forward, model.transfer, plan, dimension=model.stamp.dimension)
    embedder = TransformerEmbedder(
        model.forward, runner, model.tokenizer, model.stamp, device=target.device, dtype=target.dtype
    )
    _verify(embedder, model.reference, folder)
    log.info(
        "model.loaded", model=settings.model, digest=model.stamp.digest[:12], device=embedder.device,
        dtype=embedder.dtype, dimension=model.stamp.dimension, max_tokens=model.stamp.max_tokens,
        flat=model.forward.flat, packed=model.forward.packed, float32_by_onednn=target.onednn_float32, **asdict(plan),
    )  # fmt: skip
    return embedder


def _resolve_target(settings: EmbeddingSettings) -> _Target:
    """Device and precision for the settings; limits this process's GPU memory, and may switch float32 to oneDNN."""
    device = resolve_device(settings.device)
    cap_memory(device)
    dtype = resolve_dtype(settings.dtype, device)
    onednn_float32 = device.type == "cpu" and dtype == torch.float32 and enable_onednn_float32()
    return _Target(device, dtype, settings.threads or available_cpus(), onednn_float32)


def _load(folder: Path, settings: EmbeddingSettings, target: _Target) -> _LoadedModel:
    """Load the checked files and enable the fast paths that keep the model's vectors."""
    model = load_checkpoint(folder, target.device, target.dtype)
    limit = model.max_seq_length = input_limit(model, folder)
    reference = reference_vectors(model)
    full_dimension = reference.shape[1]
    dimension = _dimension(settings.dimensions, full_dimension)
    stamp = ModelStamp(
        name=settings.model,
        digest=digest_model(folder),
        dimension=dimension,
        pooling=pooling_name(model),
        max_tokens=limit,
    )
    tokenizer = model_tokenizer(model, folder, limit, target.cores)
    forward = Forward(
        list(model),
        padding_id=tokenizer.padding_id,
        dimension=dimension,
        unit_length=dimension < full_dimension and any(isinstance(module, Normalize) for module in model),
    )
    transfer: Transfer = CudaTransfer(target.device) if target.is_gpu else HostTransfer()
    # torch.compile packs the weights itself.
    pack = not target.is_gpu and uses_onednn(target.dtype) and not settings.compile
    enable_fast_paths(forward, transfer, tokenizer, limit=limit, name=settings.model, pack=pack)
    if forward.packed:
        transfer.recover()  # releases the memory of the layers that were replaced
    return _LoadedModel(stamp, tokenizer, forward, transfer, reference[:, :dimension])


def _tune(model: _LoadedModel, settings: EmbeddingSettings, target: _Target) -> BatchPlan:
    """The batch plan for this model and machine, from the tuning cache or measured now."""
    budget = settings.token_budget if isinstance(settings.token_budget, int) else None
    cache = None
    if settings.tuning_folder is not None:
        cache = TuningCache(settings.tuning_folder, _circumstances(model, target, budget))
        if (cached := cache.read()) is not None:
            return cached
    start = time.perf_counter()
    rate = rate_of(model.forward, model.transfer, model.tokenizer, model.stamp, gpu=target.is_gpu)
    plan = tune_gpu(rate, budget) if target.is_gpu else tune_cpu(rate, target.cores, budget)
    log.info("model.tuned", seconds=round(time.perf_counter() - start, 2), **asdict(plan))
    if cache is not None:
        cache.write(plan)
    return plan


def _circumstances(model: _LoadedModel, target: _Target, budget: int | None) -> dict[str, Any]:
    """Everything that a measured plan depends on."""
    return {
        "weights": model.stamp.digest,
        "max_tokens": model.stamp.max_tokens,
        "flat": model.forward.flat,
        "dtype": str(target.dtype),
        "onednn": target.onednn_float32,
        "packed": model.forward.packed,
        "device": processor_name(str(target.device)),
        "torch": torch.__version__,
        "cores": target.cores,
        "token_budget": budget or "auto",
    }


def _dimension(setting: int | None, full: int) -> int:
    """The components kept of the model's `full` ones; raises `UsageError` if there are fewer."""
    if setting is not None and not 1 <= setting <= full:
        raise UsageError(
            f"embedding.dimensions is {setting}, but the model's vectors have {full}: write a number from 1 to "
            f"{full}, or null for all of them"
        )
    return full if setting is None else setting


def _verify(embedder: TransformerEmbedder, reference: NDArray[np.float32], folder: Path) -> None:
    """Raise `UsageError` unless the engine's vectors of the probes agree with those of sentence-transformers."""
    probes = zip(PROBES, embedder.tokenizer.tokenize(PROBES), strict=True)
    chunks = [Chunk(0, 0, len(text), text, tokens.ids[: embedder.tokenizer.max_tokens]) for text, tokens in probes]
    vectors = np.concatenate([embedder.embed(chunks), embedder.embed_queries(PROBES)])
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    cosine = float(np.min(np.sum(vectors * reference, axis=1) / norms))
    if not cosine >= _MIN_COSINE:  # true for NaN as well
        embedder.close()
        raise UsageError(
            f"the model in {folder} is of a kind that cannot be run here: its vectors have a cosine of {cosine:.4f} "
            "to those of sentence-transformers itself; use another model"
        )
