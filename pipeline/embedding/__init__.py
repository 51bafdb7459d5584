"""Embedding: load a model, pack chunks into batches and run them, chunks in and vectors out.

Names that need torch or OpenVINO (measuring, cross-encoders) are imported on first use; `load_embedder` imports torch
when called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.embedding.embedder import Embedder, EmbeddingSettings, Execution, ModelStamp, embed_documents
from pipeline.embedding.engine.cross_encoder import CrossEncoder
from pipeline.embedding.engine.hash_embedder import HashEmbedder
from pipeline.embedding.kernels.processor import available_cpus
from pipeline.embedding.loading.load import load_embedder, prepared_model
from pipeline.embedding.loading.model_files import find_model
from pipeline.embedding.loading.prepared.folder import PreparedModel, PreparedModels, Refused
from pipeline.embedding.loading.unrelated import UnrelatedSimilarity, unrelated_similarity

if TYPE_CHECKING:
    from pipeline.embedding.kernels.roofline import (
        forget_gpu_peak,
        forward_cost,
        gpu_memory,
        matmul_peak,
        processor_name,
    )
    from pipeline.embedding.loading.cross_encoder import load_cross_encoder, prepared_cross_encoder

__all__ = [
    "CrossEncoder",
    "Embedder",
    "EmbeddingSettings",
    "Execution",
    "HashEmbedder",
    "ModelStamp",
    "PreparedModel",
    "PreparedModels",
    "Refused",
    "UnrelatedSimilarity",
    "available_cpus",
    "embed_documents",
    "find_model",
    "forget_gpu_peak",
    "forward_cost",
    "gpu_memory",
    "load_cross_encoder",
    "load_embedder",
    "matmul_peak",
    "prepared_cross_encoder",
    "prepared_model",
    "processor_name",
    "unrelated_similarity",
]

_HEAVY_MODULES = {
    "forget_gpu_peak": "pipeline.embedding.kernels.roofline",
    "forward_cost": "pipeline.embedding.kernels.roofline",
    "gpu_memory": "pipeline.embedding.kernels.roofline",
    "load_cross_encoder": "pipeline.embedding.loading.cross_encoder",
    "matmul_peak": "pipeline.embedding.kernels.roofline",
    "prepared_cross_encoder": "pipeline.embedding.loading.cross_encoder",
    "processor_name": "pipeline.embedding.kernels.roofline",
}
"""The module of each name whose import loads torch or OpenVINO, which takes up to seconds."""


def __getattr__(name: str) -> Any:
    if name in _HEAVY_MODULES:
        return getattr(import_module(_HEAVY_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
