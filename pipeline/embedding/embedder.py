"""What an embedder is, how it is asked for, and the stamp that tells one model's vectors from another's."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Mismatch
from pipeline.records import Chunk, Tokenizer


@dataclass(frozen=True, slots=True)
class ModelStamp:
    """What made the vectors of a collection; stored with it."""

    name: str
    """As configured. For people only: two names may stand for one model."""
    digest: str
    """SHA-256 over the weights, the vocabulary and the settings that change vectors, in hex."""
    dimension: int
    pooling: str
    max_tokens: int
    """Tokens that the model reads at most, special tokens included."""

    def to_json(self) -> str:
        """The stamp as one JSON object; `from_json` reads it back."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelStamp":
        """Read what `to_json` wrote; raises `Mismatch` if it is anything else."""
        try:
            found = json.loads(text)
            return cls(
                name=str(found["name"]),
                digest=str(found["digest"]),
                dimension=int(found["dimension"]),
                pooling=str(found["pooling"]),
                max_tokens=int(found["max_tokens"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise Mismatch(f"the model stamp of the collection cannot be read: {error}") from error

    @property
    def fingerprint(self) -> str:
        """16 hex digits that are equal exactly when vectors may stand in one index; the name is left out."""
        identity = f"{self.digest}/{self.dimension}/{self.pooling}/{self.max_tokens}"
        return hashlib.sha256(identity.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Execution:
    """How a loaded model is run, as chosen when it was loaded."""

    layout: Literal["flat", "padded", "none"]
    """`flat`: texts one after another in one row; `padded`: one row each; `none`: there is no model."""
    workers: int
    """Forward passes at a time."""
    threads: int
    """Of one forward pass on a CPU; 0 on a GPU."""
    token_budget: int
    """Tokens of one forward pass at most, padding included; a longer text stands alone."""


class Embedder(Protocol):
    """A loaded model, which several threads may use; `load_embedder` makes it."""

    @property
    def stamp(self) -> ModelStamp:
        """What tells this model's vectors from others."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, for chunking."""

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda:0`."""

    @property
    def dtype(self) -> str:
        """The precision of its matrix products: `float32`, `bfloat16`, `float16`."""

    @property
    def execution(self) -> Execution:
        """How it is run: batches, workers, threads."""

    def embed(self, chunks: Sequence[Chunk]) -> NDArray[np.float32]:
        """Vectors of the chunks as documents, shape (n, dimension), in the order given.

        A row may hold NaN or Inf, if the model made it so, if the tokenizer leaves nothing of the chunk, or if memory
        does not hold this one; the caller checks.
        Raises `Unavailable` when memory does not hold any chunk.
        """

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of the texts as queries, shape (n, dimension); what is beyond the model's limit is cut off."""

    def close(self) -> None:
        """Let go of threads and memory; the embedder must not be used afterwards."""


@dataclass(frozen=True, slots=True)
class EmbeddingSettings:
    """Which model, and how to run it."""

    model: str
    """A local folder, a hub id whose files are on this machine, or `hash:DIMENSION`."""
    dimensions: int | None = None
    """Matryoshka: only so many components of each vector, from the first; None: all that the model gives."""
    device: str = "auto"
    """auto | cpu | cuda | cuda:N."""
    dtype: str = "auto"
    """auto | float32 | bfloat16 | float16."""
    token_budget: int | Literal["auto"] = "auto"  # noqa: S105 - tokens of text
    """Tokens of one forward pass, padding included; auto: measured when the model is loaded."""
    threads: int | None = None
    """Processor cores to use on a CPU; None: those this process may use."""
    compile: bool = False
    """Have torch make machine code of the model when it is loaded."""
    tuning_folder: Path | None = None
    """Where what was measured is remembered; None: nowhere."""
