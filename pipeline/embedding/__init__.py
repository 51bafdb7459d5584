"""Embedding: load a model, pack chunks into batches and run them, chunks in and vectors out.

Names that need torch (the measuring functions) are imported on first use; `load_embedder` imports torch when called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.embedding.embedder import Embedder, EmbeddingSettings, Execution, ModelStamp
from pipeline.embedding.engine.hash_embedder import HashEmbedder
from pipeline.embedding.kernels.processor import available_cpus
from pipeline.embedding.loading.load import load_embedder, prepared_model
from pipeline.embedding.loading.model_files import find_model
from pipeline.embedding.loading.prepared.folder import PreparedModel, PreparedModels, Refused

if TYPE_CHECKING:
    from pipeline.embedding.kernels.roofline import (
        forget_gpu_peak,
        forward_cost,
        gpu_memory,
        matmul_peak,
        processor_name,
    )

__all__ = [
    "Embedder",
    "EmbeddingSettings",
    "Execution",
    "HashEmbedder",
    "ModelStamp",
    "PreparedModel",
    "PreparedModels",
    "Refused",
    "available_cpus",
    "find_model",
    "forget_gpu_peak",
    "forward_cost",
    "gpu_memory",
    "load_embedder",
    "matmul_peak",
    "prepared_model",
    "processor_name",
]

_TORCH_MODULES = {
    "forget_gpu_peak": "pipeline.embedding.kernels.roofline",
    "forward_cost": "pipeline.embedding.kernels.roofline",
    "gpu_memory": "pipeline.embedding.kernels.roofline",
    "matmul_peak": "pipeline.embedding.kernels.roofline",
    "processor_name": "pipeline.embedding.kernels.roofline",
}
"""The module of each name whose import loads torch, which takes seconds."""


def __getattr__(name: str) -> Any:
    if name in _TORCH_MODULES:
        return getattr(import_module(_TORCH_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
