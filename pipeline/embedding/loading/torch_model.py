"""Load a model into torch in four steps: check it, load it, tune the execution, verify the vectors."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from pipeline.embedding.embedder import EmbeddingSettings, ModelStamp
from pipeline.embedding.engine.batch_runner import BatchPlan, BatchRunner
from pipeline.embedding.engine.device_transfer import CudaTransfer, HostTransfer, Transfer
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.model_embedder import ModelEmbedder, RunnerOnDemand
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.engine.torch_passes import TorchPasses
from pipeline.embedding.kernels.device import cap_memory, resolve_dtype
from pipeline.embedding.kernels.processor import available_cpus
from pipeline.embedding.kernels.roofline import processor_name
from pipeline.embedding.loading.autotune import rate_of, tune_cpu, tune_gpu
from pipeline.embedding.loading.checkpoint import (
    input_limit,
    load_checkpoint,
    model_tokenizer,
    normalizes,
    pooling_name,
    reference_vectors,
)
from pipeline.embedding.loading.dimensions import kept_dimension
from pipeline.embedding.loading.flat_batches import enable_flat_batches
from pipeline.embedding.loading.model_files import digest_model
from pipeline.embedding.loading.probes import least_cosine
from pipeline.embedding.loading.tuning_cache import remembered_plan
from pipeline.errors import UsageError

_MIN_COSINE = 0.998
"""Least cosine to sentence-transformers' own vectors; batch shapes alone move bfloat16 to 0.9999."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where, and in which precision, the model runs."""

    device: torch.device
    dtype: torch.dtype
    cores: int

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True, slots=True)
class _LoadedModel:
    """A loaded model as the parts that the engine runs."""

    stamp: ModelStamp
    tokenizer: ModelTokenizer
    passes: TorchPasses
    reference: NDArray[np.float32]
    """The probes' vectors by sentence-transformers itself, as documents and then as queries."""


def load_with_torch(folder: Path, settings: EmbeddingSettings, device: torch.device) -> ModelEmbedder:
    """Load the model in a checked folder; raises `UsageError` if it is of an unsupported kind.

    Measuring takes some two seconds where the tuning cache does not know this model on this device.
    """
    cap_memory(device)
    target = _Target(device, resolve_dtype(settings.dtype, device), settings.threads or available_cpus())
    model = _load(folder, settings, target)
    plan = _tune(model, settings, target)
    runner = BatchRunner(model.passes, plan, dimension=model.stamp.dimension)
    on_demand = RunnerOnDemand(lambda: runner)
    embedder = ModelEmbedder(
        on_demand,
        on_demand,
        model.tokenizer,
        model.stamp,
        engine="torch",
        device=str(device),
        dtype=str(target.dtype).removeprefix("torch."),
    )
    _verify(embedder, runner, model, folder)
    log.info(
        "model.loaded", model=settings.model, digest=model.stamp.digest[:12], engine="torch", device=embedder.device,
        dtype=embedder.dtype, dimension=model.stamp.dimension, max_tokens=model.stamp.max_tokens,
        flat=model.passes.flat, **asdict(plan),
    )  # fmt: skip
    return embedder


def _load(folder: Path, settings: EmbeddingSettings, target: _Target) -> _LoadedModel:
    """Load the checked files and enable flat batches where they keep the model's vectors."""
    model = load_checkpoint(folder, target.device, target.dtype)
    limit = model.max_seq_length = input_limit(model, folder)
    reference = reference_vectors(model)
    full_dimension = reference.shape[1]
    dimension = kept_dimension(settings.dimensions, full_dimension)
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
        unit_length=dimension < full_dimension and normalizes(model),
    )
    transfer: Transfer = CudaTransfer(target.device) if target.is_gpu else HostTransfer()
    enable_flat_batches(forward, transfer, tokenizer, limit=limit, name=settings.model)
    return _LoadedModel(stamp, tokenizer, TorchPasses(forward, transfer), reference[:, :dimension])


def _tune(model: _LoadedModel, settings: EmbeddingSettings, target: _Target) -> BatchPlan:
    """The batch plan for this model and machine, from the tuning cache or measured now."""
    budget = settings.fixed_budget
    dimension = model.stamp.dimension
    rate = rate_of(
        lambda plan: BatchRunner(model.passes, plan, dimension=dimension), model.tokenizer, model.stamp,
        gpu=target.is_gpu,
    )  # fmt: skip
    return remembered_plan(
        settings.tuning_folder,
        _circumstances(model, target, budget),
        lambda: tune_gpu(rate, budget) if target.is_gpu else tune_cpu(rate, target.cores, budget),
    )


def _circumstances(model: _LoadedModel, target: _Target, budget: int | None) -> dict[str, Any]:
    """Everything that a measured plan depends on."""
    return {
        "weights": model.stamp.digest,
        "max_tokens": model.stamp.max_tokens,
        "flat": model.passes.flat,
        "dtype": str(target.dtype),
        "device": processor_name(str(target.device)),
        "torch": torch.__version__,
        "cores": target.cores,
        "token_budget": budget or "auto",
    }


def _verify(embedder: ModelEmbedder, runner: BatchRunner, model: _LoadedModel, folder: Path) -> None:
    """Raise `UsageError` unless the engine's vectors of the probes agree with those of sentence-transformers."""
    documents, queries = np.split(model.reference, 2)
    cosine = min(
        least_cosine(runner, model.tokenizer, documents, query=False),
        least_cosine(runner, model.tokenizer, queries, query=True),
    )
    if not cosine >= _MIN_COSINE:  # true for NaN as well
        embedder.close()
        raise UsageError(
            f"the model in {folder} is of a kind that cannot be run here: its vectors have a cosine of {cosine:.4f} "
            "to those of sentence-transformers itself; use another model"
        )
