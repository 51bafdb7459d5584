"""Load a sentence-transformers model without a network or trust in its files, and check that it is run right."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from pipeline.embedding.embedder import EmbeddingSettings, ModelStamp
from pipeline.embedding.engine.batch_runner import BatchPlan, Runner
from pipeline.embedding.engine.device_transfer import CudaTransfer, HostTransfer
from pipeline.embedding.engine.forward_pass import Forward, first_position
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.engine.transformer_embedder import TransformerEmbedder
from pipeline.embedding.kernels.device import (
    available_cpus,
    cap_memory,
    float32_by_onednn,
    multiplied_by_onednn,
    resolve_device,
    resolve_dtype,
)
from pipeline.embedding.kernels.roofline import processor_name
from pipeline.embedding.loading.autotune import Rate, rate_of, tune_cpu, tune_gpu
from pipeline.embedding.loading.compilation import compile_model
from pipeline.embedding.loading.fast_paths import enable_fast_paths
from pipeline.embedding.loading.model_files import check_model, digest_model, find_model, first_folder
from pipeline.embedding.loading.tuning_cache import TuningFile
from pipeline.embedding.loading.weight_check import missing_weights
from pipeline.errors import UsageError
from pipeline.records import Chunk

_AGREEMENT = 0.998
"""Least cosine to sentence-transformers' own vectors; batch shapes alone move bfloat16 to 0.9999."""
_PROBES = ("A", "what the model reads", "The quick brown fox jumps over the lazy dog, 27 times. " * 4)

log = structlog.get_logger(__name__)


def load_model(settings: EmbeddingSettings) -> TransformerEmbedder:
    """Load what `settings.model` names; raises `UsageError` if it is not here, not safe or not of a known kind.

    Where nothing is remembered of this model on this device, some two seconds go into measuring.
    """
    folder = find_model(settings.model)
    check_model(folder)
    device = resolve_device(settings.device)
    cap_memory(device)
    dtype = resolve_dtype(settings.dtype, device)
    by_onednn = device.type == "cpu" and dtype == torch.float32 and float32_by_onednn()
    cores = settings.threads or available_cpus()
    model = _load(folder, device, dtype)
    limit = model.max_seq_length = _max_tokens(model, folder)
    expected = _reference(model)  # before the tokenizer is taken over: encode() sets its truncation and padding
    dimension = _dimension(settings.dimensions, expected.shape[1])
    stamp = ModelStamp(
        name=settings.model,
        digest=digest_model(folder),
        dimension=dimension,
        pooling=_pooling(model),
        max_tokens=limit,
    )
    tokenizer = _tokenizer(model, folder, limit, cores)
    forward = Forward(
        list(model),
        padding_id=tokenizer.padding_id,
        dimension=dimension,
        unit_length=dimension < expected.shape[1] and any(isinstance(module, Normalize) for module in model),
    )
    transfer = HostTransfer() if device.type == "cpu" else CudaTransfer(device)
    # What torch compiles it packs itself.
    pack = device.type == "cpu" and multiplied_by_onednn(dtype) and not settings.compile
    enable_fast_paths(forward, transfer, tokenizer, limit=limit, name=settings.model, pack=pack)
    if forward.packed:
        transfer.recover()  # what the layers held that were replaced
    rate = rate_of(forward, transfer, tokenizer, stamp, gpu=device.type == "cuda")
    known = {
        "weights": stamp.digest,
        "max_tokens": limit,
        "flat": forward.flat,
        "dtype": str(dtype),
        "onednn": by_onednn,
        "packed": forward.packed,
    }
    plan = _plan(rate, settings, device, cores, known)
    if settings.compile:
        compile_model(forward, transfer, tokenizer, plan)
    runner = Runner(forward, transfer, plan, dimension=stamp.dimension)
    embedder = TransformerEmbedder(forward, runner, tokenizer, stamp, device=device, dtype=dtype)
    _verify(embedder, expected[:, :dimension], folder)
    log.info(
        "model.loaded", model=settings.model, digest=stamp.digest[:12], device=embedder.device, dtype=embedder.dtype,
        dimension=stamp.dimension, max_tokens=limit, flat=forward.flat, packed=forward.packed,
        float32_by_onednn=by_onednn, **asdict(plan),
    )  # fmt: skip
    return embedder


def _plan(
    rate: Rate, settings: EmbeddingSettings, device: torch.device, cores: int, model: Mapping[str, Any]
) -> BatchPlan:
    """How to run the model here: as remembered of this `model`, or as measured now."""
    budget = settings.token_budget if isinstance(settings.token_budget, int) else None
    memory = None
    if settings.tuning_folder is not None:
        machine: dict[str, Any] = {"device": processor_name(str(device)), "torch": torch.__version__, "cores": cores}
        memory = TuningFile(settings.tuning_folder, {**model, **machine, "token_budget": budget or "auto"})
        if (remembered := memory.read()) is not None:
            return remembered
    start = time.perf_counter()
    plan = tune_gpu(rate, budget) if device.type == "cuda" else tune_cpu(rate, cores, budget)
    log.info("model.tuned", seconds=round(time.perf_counter() - start, 2), **asdict(plan))
    if memory is not None:
        memory.write(plan)
    return plan


def _load(folder: Path, device: torch.device, dtype: torch.dtype) -> SentenceTransformer:
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = SentenceTransformer(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
    # Whatever is wrong with its files comes out of two libraries as one of these.
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        ImportError,
        SafetensorError,
    ) as e:
        raise UsageError(f"the model in {folder} cannot be loaded: {' '.join(str(e).split())}") from e
    transformer: Any = model[0]
    if missing := missing_weights(transformer.model, folder / first_folder(folder)):
        raise UsageError(
            f"the weights in {folder} are not whole: {len(missing)} are missing, {missing[0]} first; save or copy the "
            "model again"
        )
    if set(transformer.modality_config) != {"text"}:
        raise UsageError(
            f"the model in {folder} reads {', '.join(map(str, transformer.modality_config))}, not plain text"
        )
    return model


def _dimension(wanted: int | None, given: int) -> int:
    """Components kept of the `given` ones of the model's vectors."""
    if wanted is not None and not 1 <= wanted <= given:
        raise UsageError(
            f"embedding.dimensions is {wanted}, but the model's vectors have {given}: write a number from 1 to "
            f"{given}, or null for all of them"
        )
    return given if wanted is None else wanted


def _max_tokens(model: SentenceTransformer, folder: Path) -> int:
    """Tokens that the model reads at most: what its files say, and no more than it has positions for."""
    transformer: Any = model[0]
    config = transformer.model.config
    limits = [model.max_seq_length]
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        limits.append(positions - first_position(transformer.model))
    limit = min(limit for limit in limits if limit is not None)
    if limit > 1_000_000:  # transformers' "unknown" is 1e30
        raise UsageError(f"{folder} does not say how many tokens the model reads: set max_seq_length in its "
                         "sentence_bert_config.json")  # fmt: skip
    return int(limit)


def _tokenizer(model: SentenceTransformer, folder: Path, limit: int, threads: int) -> ModelTokenizer:
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"the model in {folder} has no fast tokenizer (tokenizer.json), which offsets need")
    # The same choice as SentenceTransformer.encode_document and encode_query make.
    default = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else ""
    document = next(
        (model.prompts[name] for name in ("document", "passage", "corpus") if name in model.prompts), default
    )
    return ModelTokenizer(
        tokenizer.backend_tokenizer,
        limit=limit,
        padding_id=tokenizer.pad_token_id or 0,
        document_prompt=document or "",
        query_prompt=model.prompts.get("query", default) or "",
        threads=threads,
    )


def _pooling(model: SentenceTransformer) -> str:
    """How token vectors become one, e.g. `mean`, `cls`, `mean+max`."""
    for module in model:
        if isinstance(module, Pooling):
            modes: Any = module.pooling_mode
            return modes if isinstance(modes, str) else "+".join(modes)
    return "none"


def _reference(model: SentenceTransformer) -> NDArray[np.float32]:
    """sentence-transformers' own vectors of the probes, as documents and then as queries."""
    documents = model.encode_document(list(_PROBES), show_progress_bar=False)
    queries = model.encode_query(list(_PROBES), show_progress_bar=False)
    return np.concatenate([documents, queries]).astype(np.float32)


def _verify(embedder: TransformerEmbedder, expected: NDArray[np.float32], folder: Path) -> None:
    """Raise `UsageError` unless own batches give the vectors that sentence-transformers gives; one text each way."""
    probes = zip(_PROBES, embedder.tokenizer.tokenize(_PROBES), strict=True)
    chunks = [Chunk(0, 0, len(text), text, tokens.ids[: embedder.tokenizer.max_tokens]) for text, tokens in probes]
    found = np.concatenate([embedder.embed(chunks), embedder.embed_queries(_PROBES)])
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    agreement = float(np.min(np.sum(found * expected, axis=1) / norms))
    if not agreement >= _AGREEMENT:  # NaN is no agreement either
        embedder.close()
        raise UsageError(
            f"the model in {folder} is of a kind that cannot be run here: its vectors have a cosine of {agreement:.4f} "
            "to those of sentence-transformers itself; use another model"
        )
