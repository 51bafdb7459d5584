"""Load a prepared model with OpenVINO: compile it, compare its vectors, choose the batches. No torch is imported."""

import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import openvino
import structlog
import tokenizers
from numpy.typing import NDArray

from pipeline.embedding.embedder import EmbeddingSettings, ModelStamp
from pipeline.embedding.engine.batch_runner import BatchPlan, BatchRunner
from pipeline.embedding.engine.model_embedder import ModelEmbedder, RunnerOnDemand
from pipeline.embedding.engine.openvino_passes import OpenVinoPasses
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.kernels.processor import available_cpus, cpu_name
from pipeline.embedding.loading.autotune import rate_of, tune_cpu
from pipeline.embedding.loading.dimensions import kept_dimension
from pipeline.embedding.loading.prepared.folder import PreparedModel
from pipeline.embedding.loading.prepared.manifest import MODEL_FILE, REFERENCE_FILE, TOKENIZER_FILE, Manifest
from pipeline.embedding.loading.probes import least_cosine
from pipeline.embedding.loading.tuning_cache import remembered_plan
from pipeline.errors import UsageError

_MIN_COSINE = {"float": 0.998, "int8": 0.94}
"""Least cosine to sentence-transformers' own vectors in float32; bfloat16 alone is above 0.999."""
_QUERY_BUDGET = 4096
"""Tokens of one pass over queries."""

log = structlog.get_logger(__name__)


def has_native_bf16() -> bool:
    """Whether the processor multiplies bfloat16 by itself, which is some two times as fast as float32."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def load_prepared(model: PreparedModel, settings: EmbeddingSettings, *, queries_first: bool) -> ModelEmbedder:
    """The embedder of a prepared model; raises UsageError if its vectors are wrong on this machine.

    `queries_first`: the model is compiled for queries now and for documents when there are some; else the reverse.
    """
    started = time.perf_counter()
    manifest = model.manifest
    dtype = _dtype(settings.dtype, manifest.precision)
    cores = settings.threads or available_cpus()
    dimension = kept_dimension(settings.dimensions, manifest.dimension)
    stamp = ModelStamp(settings.model, manifest.digest, dimension, manifest.pooling, manifest.max_tokens)
    tokenizer = ModelTokenizer(
        tokenizers.Tokenizer.from_file(str(model.folder / TOKENIZER_FILE)),
        limit=manifest.max_tokens,
        padding_id=manifest.padding_id,
        document_prompt=manifest.document_prompt,
        query_prompt=manifest.query_prompt,
        threads=cores,
    )
    compilation = _Compilation(model, dtype, dimension)
    document_plan = partial(_tuned, compilation, tokenizer, stamp, settings, cores)
    documents = RunnerOnDemand(partial(_checked_runner, compilation, tokenizer, document_plan, query=False))
    query_plan = partial(BatchPlan, _QUERY_BUDGET, 1, cores)
    queries = RunnerOnDemand(partial(_checked_runner, compilation, tokenizer, query_plan, query=True))
    embedder = ModelEmbedder(documents, queries, tokenizer, stamp, engine="openvino", device="cpu", dtype=dtype)
    try:
        plan = (queries if queries_first else documents).get().plan
    except BaseException:
        embedder.close()
        raise
    log.info(
        "model.loaded", model=settings.model, digest=stamp.digest[:12], engine="openvino", device="cpu", dtype=dtype,
        dimension=dimension, max_tokens=stamp.max_tokens, seconds=round(time.perf_counter() - started, 2),
        **asdict(plan),
    )  # fmt: skip
    return embedder


def _dtype(setting: str, precision: str) -> str:
    if precision == "int8":
        return "int8"
    if setting == "float16":
        raise UsageError("embedding.dtype is float16, which OpenVINO does not use on a CPU: write auto")
    if setting == "auto":
        return "bfloat16" if has_native_bf16() else "float32"
    return setting


def prepared_passes(compiled: openvino.CompiledModel, manifest: Manifest, dimension: int) -> OpenVinoPasses:
    """The passes of a prepared model that is compiled; `dimension`: components kept of each vector."""
    return OpenVinoPasses(
        compiled,
        padding_id=manifest.padding_id,
        limit=manifest.max_tokens,
        masks_prompt=manifest.masks_prompt,
        dimension=dimension,
        unit_length=manifest.unit_length and (dimension < manifest.dimension or not manifest.truncated),
    )


class _Compilation:
    """Compiles one prepared model for several purposes."""

    def __init__(self, model: PreparedModel, dtype: str, dimension: int) -> None:
        self.model = model
        self.dtype = dtype
        self.dimension = dimension
        self._core = openvino.Core()
        self._model = self._core.read_model(model.folder / MODEL_FILE)

    def runner(self, plan: BatchPlan) -> BatchRunner:
        """A runner of the model compiled for so many concurrent passes of so many threads each."""
        precision = "bf16" if self.dtype == "bfloat16" or (self.dtype == "int8" and has_native_bf16()) else "f32"
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "NUM_STREAMS": str(plan.workers),
            "INFERENCE_NUM_THREADS": str(plan.workers * plan.threads),
            "PERFORMANCE_HINT": "LATENCY" if plan.workers == 1 else "THROUGHPUT",
        }
        try:
            compiled = self._core.compile_model(self._model, "CPU", options)
        except RuntimeError as error:
            raise UsageError(
                f"OpenVINO cannot compile the model in {self.model.folder}: {' '.join(str(error).split())[:300]}. Set "
                "embedding.engine to torch, or prepare it again after `milvus-stream model remove`"
            ) from error
        return BatchRunner(
            prepared_passes(compiled, self.model.manifest, self.dimension), plan, dimension=self.dimension
        )


def _checked_runner(
    compilation: _Compilation, tokenizer: ModelTokenizer, plan: Callable[[], BatchPlan], *, query: bool
) -> BatchRunner:
    """A runner whose vectors of the probes are those of sentence-transformers; raises UsageError where they are not."""
    runner = compilation.runner(plan())
    reference = _reference(compilation.model, query=query)[:, : compilation.dimension]
    cosine = least_cosine(runner, tokenizer, reference, query=query)
    if not cosine >= _MIN_COSINE[compilation.model.manifest.precision]:  # true for NaN as well
        runner.close()
        raise UsageError(
            f"the model prepared in {compilation.model.folder} gives wrong vectors on this machine (cosine "
            f"{cosine:.4f}, {compilation.dtype}): set embedding.engine to torch, or embedding.dtype to float32"
        )
    return runner


def _reference(model: PreparedModel, *, query: bool) -> NDArray[np.float32]:
    documents, queries = np.split(np.load(model.folder / REFERENCE_FILE, allow_pickle=False), 2)
    return queries if query else documents


def _tuned(
    compilation: _Compilation, tokenizer: ModelTokenizer, stamp: ModelStamp, settings: EmbeddingSettings, cores: int
) -> BatchPlan:
    """The batch plan for this model and machine, from the tuning cache or measured now."""
    budget = settings.fixed_budget
    circumstances: dict[str, Any] = {
        "weights": stamp.digest,
        "max_tokens": stamp.max_tokens,
        "dtype": compilation.dtype,
        "device": cpu_name(),
        "openvino": openvino.__version__,
        "cores": cores,
        "token_budget": budget or "auto",
    }
    rate = rate_of(compilation.runner, tokenizer, stamp)
    return remembered_plan(settings.tuning_folder, circumstances, lambda: tune_cpu(rate, cores, budget))
