"""A sentence-transformers checkpoint: loaded without a network or trust in its files, and read for the engine."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from pipeline.embedding.engine.forward_pass import first_position
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.embedding.loading.model_files import first_folder
from pipeline.embedding.loading.probes import PROBES
from pipeline.embedding.loading.weight_check import missing_weights
from pipeline.errors import UsageError

_UNKNOWN_LIMIT = 1_000_000
"""Tokens above which an input limit is not one: transformers writes 1e30 where it does not know it."""


def load_checkpoint(folder: Path, device: torch.device, dtype: torch.dtype) -> SentenceTransformer:
    """Load the model; raises `UsageError` if its files are damaged or incomplete, or if it does not read plain text."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = SentenceTransformer(
            str(folder),
            device=str(device),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
    # Damaged files make the two libraries raise any of these.
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


def input_limit(model: SentenceTransformer, folder: Path) -> int:
    """The model's input limit in tokens: that of its files, but never more than it has positions for."""
    transformer: Any = model[0]
    config = transformer.model.config
    limits = [model.max_seq_length]
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        limits.append(positions - first_position(transformer.model))
    limit = min(limit for limit in limits if limit is not None)
    if limit > _UNKNOWN_LIMIT:
        raise UsageError(f"{folder} does not say how many tokens the model reads: set max_seq_length in its "
                         "sentence_bert_config.json")  # fmt: skip
    return int(limit)


def model_tokenizer(model: SentenceTransformer, folder: Path, limit: int, threads: int) -> ModelTokenizer:
    """The model's tokenizer and prompts for the engine. Afterwards `model` itself must not encode any more."""
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UsageError(f"the model in {folder} has no fast tokenizer (tokenizer.json), which offsets need")
    # The same choice of prompts as in SentenceTransformer.encode_document and encode_query.
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


def normalizes(model: SentenceTransformer) -> bool:
    """Whether the model scales its vectors to length 1."""
    return any(isinstance(module, Normalize) for module in model)


def pooling_name(model: SentenceTransformer) -> str:
    """How token vectors become one vector, e.g. `mean`, `cls`, `mean+max`."""
    for module in model:
        if isinstance(module, Pooling):
            modes: Any = module.pooling_mode
            return modes if isinstance(modes, str) else "+".join(modes)
    return "none"


def reference_vectors(model: SentenceTransformer) -> NDArray[np.float32]:
    """The probes' vectors by sentence-transformers itself, as documents and then as queries.

    Sets the tokenizer's truncation and padding, so it must run before `model_tokenizer`.
    """
    documents = model.encode_document(list(PROBES), show_progress_bar=False)
    queries = model.encode_query(list(PROBES), show_progress_bar=False)
    return np.concatenate([documents, queries]).astype(np.float32)
