"""Loading of test models, their texts, and the comparison of vectors."""

import atexit
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, EmbeddingSettings, PreparedModels, find_model
from pipeline.embedding.loading.load import preparation_request
from pipeline.embedding.loading.prepared.conversion import convert
from pipeline.records import Chunk

SENTENCE = "the quick brown Fox jumps over 27 lazy dogs, doing nothing else all day. Why? Because: it can!"


WORDS = SENTENCE.split()


TEXTS = [
    "a",
    "",
    "  Why?",
    "the fox",
    "ébène 漢字 the",
    *(" ".join((WORDS * 3)[start : start + 11]) for start in range(9)),
    *(" ".join((WORDS * 3)[:length]) for length in (2, 3, 5, 8, 13, 16)),
]


CACHE = Path(tempfile.mkdtemp(prefix="milvus-stream-models-"))
"""Of the models that these tests prepare, and of what they measure."""
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)


def settings(folder: Path, **changes: object) -> EmbeddingSettings:
    """Those of a model that torch runs."""
    defaults: dict[str, object] = {
        "model": str(folder), "device": "cpu", "engine": "torch", "dtype": "float32", "threads": 2,
        "cache_folder": CACHE,
    }  # fmt: skip
    return EmbeddingSettings(**(defaults | changes))  # type: ignore[arg-type]


def prepared_settings(folder: Path, **changes: object) -> EmbeddingSettings:
    """Those of a model that OpenVINO runs; it is converted here, not in a process that would load torch again."""
    chosen = settings(folder, engine="openvino", **changes)
    request = preparation_request(chosen, find_model(chosen.model))
    models = PreparedModels(chosen.models_folder)
    if models.find(request) is None:
        with models.making(request) as destination:
            convert(request, destination)
    return chosen


def whole(embedder: Embedder, texts: list[str]) -> list[Chunk]:
    """Chunks of the texts, one per text; the texts must fit."""
    chunker = Chunker(embedder.tokenizer, ChunkingPolicy(overlap=0))
    chunked = chunker.chunk(texts)
    assert all(len(chunks) == 1 for chunks in chunked)
    return [chunks[0] for chunks in chunked]


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(np.sum(left * right, axis=1) / norms, dtype=np.float32)


def distances(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of each pair of vectors, relative to the length of the expected one."""
    distance = np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return np.asarray(distance, dtype=np.float32)
