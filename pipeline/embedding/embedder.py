"""The embedder interface, its settings, and the stamp that identifies a model's vectors."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Chunk, Tokenizer

DEFAULT_CACHE = Path("~/.cache/milvus-stream")


@dataclass(frozen=True, slots=True)
class ModelStamp:
    """The identity of the model behind a collection's vectors; stored with the collection."""

    name: str
    """The model as configured. For people only: one model may have several names."""
    digest: str
    """SHA-256 over the weights, the vocabulary and the settings that change vectors, in hex."""
    dimension: int
    pooling: str
    max_tokens: int
    """The model's input limit in tokens, special tokens included."""

    @property
    def fingerprint(self) -> str:
        """16 hex digits, equal exactly when vectors are comparable in one index; the name is left out."""
        identity = f"{self.digest}/{self.dimension}/{self.pooling}/{self.max_tokens}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Execution:
    """How a loaded model is run, as chosen when it was loaded."""

    layout: Literal["flat", "padded", "none"]
    """`flat`: texts concatenated into one row; `padded`: one row per text; `none`: there is no model."""
    workers: int
    """Concurrent forward passes."""
    threads: int
    """CPU threads of one forward pass; 0 on a GPU."""
    token_budget: int
    """Maximum tokens of one forward pass, padding included; a longer text is a batch of its own."""


class Embedder(Protocol):
    """A loaded model, made by `load_embedder`. Safe to call from several threads."""

    @property
    def stamp(self) -> ModelStamp:
        """The identity of this model's vectors."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, for chunking."""

    @property
    def engine(self) -> str:
        """What runs it: `openvino`, `torch`, `none`."""

    @property
    def device(self) -> str:
        """The device it runs on: `cpu`, `cuda:0`."""

    @property
    def dtype(self) -> str:
        """The precision of its matrix products: `float32`, `bfloat16`, `float16`, `int8`."""

    @property
    def execution(self) -> Execution:
        """The batch layout, workers and threads in use."""

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Embed the chunks as documents: vectors of shape (n, dimension), in the order of the chunks.

        A row is NaN or Inf in three cases, for which the caller checks: the model computed it so, the tokenizer leaves
        no token of the chunk, or memory holds shorter chunks but not this one.
        Raises `Unavailable` when memory does not hold even the shortest chunk.
        """

    def embed_few(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Embed a few chunks as documents, as `embed`, with what embeds queries: slower, and nothing more is loaded."""

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed the texts as queries: vectors of shape (n, dimension). Tokens beyond the model's limit are cut off."""

    def close(self) -> None:
        """Release threads and memory; the embedder must not be used afterwards."""


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """The model to load, and how to run it."""

    model: str
    """A local folder, a hub id whose files are on this machine, or `hash:DIMENSION`."""
    dimensions: int | None = None
    """Matryoshka: keep this many leading components of each vector; None: all components."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N."""
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """auto: torch on a GPU; on a CPU OpenVINO, and torch for a model that OpenVINO does not run."""
    dtype: str = "auto"
    """auto | float32 | bfloat16 | float16 | int8."""
    token_budget: int | Literal["auto"] = "auto"  # noqa: S105 - tokens of text
    """Tokens of one forward pass, padding included; auto: measured when the model is loaded."""
    threads: int | None = None
    """CPU cores to use; None: all that this process may use."""
    cache_folder: Path = DEFAULT_CACHE
    """Of prepared models, and of what was measured on this machine."""
    calibration: Path | None = None
    """Texts that an int8 model is calibrated on, one a line; None: those of the standard library's documentation."""

    @property
    def fixed_budget(self) -> int | None:
        """The token budget set by hand; None: it is measured."""
        return self.token_budget if isinstance(self.token_budget, int) else None

    @property
    def models_folder(self) -> Path:
        """Of prepared models."""
        return self.cache_folder / "models"

    @property
    def tuning_folder(self) -> Path:
        """Of measured batch plans."""
        return self.cache_folder / "tuning"


def embed_documents(model: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of whole texts as documents, shape (n, dimension); tokens beyond the model's limit are cut off."""
    return model.embed(whole_texts(model, texts))


def whole_texts(model: Embedder, texts: Sequence[str]) -> list[Chunk]:
    """Each text as one chunk; tokens beyond the model's limit are cut off."""
    limit = model.tokenizer.max_tokens
    tokens = model.tokenizer.tokenize(texts, fits=limit)
    return [Chunk(0, 0, len(text), text, read.ids[:limit]) for text, read in zip(texts, tokens, strict=True)]
