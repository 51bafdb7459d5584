"""What must hold on a GPU: the same vectors when memory runs out, and when several callers share the engine."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.embedding import Embedder
from pipeline.records import Chunk
from tests.bench.children import contender
from tests.bench.contender import Go, arguments, contend
from tests.bench.embedding import texts
from tests.bench.embedding.gpu import SHAPES, build
from tests.bench.embedding.place import Place
from tests.bench.embedding.rows import Row
from tests.bench.report import say

CALLERS = 4
_LENGTHS = (8, 40, 120, 500)
"""Most tokens of a quarter of the texts each."""
_TEXTS = 4096
_ROOM_BYTES = 48 * 2**20
"""Left for activations: less than a full pass takes, more than one text."""
_WANTED_COSINE = 0.999
"""Other batches round otherwise: in bfloat16 vectors of equal texts differ by 0.0001."""


def main() -> None:
    """In a process of its own: build, load, embed with all memory, with little, and from several threads."""
    from pipeline.chunking import Chunker, ChunkingPolicy
    from pipeline.embedding import EmbeddingSettings, load_embedder
    from pipeline.telemetry import configure_logging

    given = arguments()
    configure_logging("warning", "json")
    folder = build(Path(given["folder"]), SHAPES["MiniLM"], texts.documents())
    engine = load_embedder(EmbeddingSettings(str(folder), device="cuda"))
    chunker = Chunker(engine.tokenizer, ChunkingPolicy(max_tokens=510, overlap=0))
    found = [text for most in _LENGTHS for text in texts.of_length(engine.tokenizer, _TEXTS // len(_LENGTHS), most)]
    chunks = [chunk for each in chunker.chunk(found) for chunk in each]

    def prepare(_: dict[str, Any]) -> Go:
        return lambda: {"callers": shared_by(engine, chunks, CALLERS), "memory": with_little_memory(engine, chunks)}

    contend(prepare)


def shared_by(engine: Embedder, chunks: Sequence[Chunk], callers: int) -> dict[str, float]:
    """Embed all chunks by one caller, then shares of them by several at a time; how alike, and how much faster."""
    shares = [chunks[number::callers] for number in range(callers)]
    engine.embed(chunks)
    began = time.perf_counter()
    alone = [engine.embed(share) for share in shares]
    alone_s = time.perf_counter() - began
    with ThreadPoolExecutor(callers) as pool:
        began = time.perf_counter()
        together = list(pool.map(engine.embed, shares))
        together_s = time.perf_counter() - began
    return {
        "cosine_least": least_cosine(np.concatenate(alone), np.concatenate(together)),
        "gain": alone_s / together_s,
    }


def with_little_memory(engine: Embedder, chunks: Sequence[Chunk]) -> dict[str, float]:
    """Embed with all memory of the GPU, then with less than a planned pass takes; how alike, and the passes' size."""
    import torch

    truth, budget = engine.embed(chunks), engine.execution.token_budget
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + _ROOM_BYTES) / total)
    try:
        found = engine.embed(chunks)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {
        "cosine_least": least_cosine(truth, found),
        "token_budget": budget,
        "token_budget_left": engine.execution.token_budget,
    }


def least_cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """The least cosine between vectors of the same number; -1 where one is not finite."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.nan_to_num((one * other).sum(axis=1) / norms, nan=-1).min())


def measure(place: Place) -> dict[str, Any]:
    """All checks; nothing where there is no GPU."""
    if place.machine["gpu"] is None:
        return {}
    with contender("embedding.gpu_checks", {"folder": str(place.folder / "checks")}, place.folder) as process:
        process.prepare({})
        figures = process.go()
    say(f"GPU, checks: {figures}")
    return figures


def rows(figures: dict[str, Any]) -> list[Row]:
    """The least cosines; a pass that was never too large for the memory proves nothing."""
    little = "least cosine, memory for a part of a pass / for all"
    several = f"least cosine, {CALLERS} callers at a time / one"
    if not figures:
        absent = "there is no CUDA device"
        return [Row("gpu-checks", what, None, _WANTED_COSINE, note=absent) for what in (little, several)]
    memory, callers = figures["memory"], figures["callers"]
    shrunk = memory["token_budget_left"] < memory["token_budget"]
    note = (
        f"tokens of a pass: {memory['token_budget']}, then {memory['token_budget_left']}"
        if shrunk
        else "memory never ran out"
    )
    return [
        Row("gpu-checks", little, memory["cosine_least"] if shrunk else -1.0, _WANTED_COSINE, note=note),
        Row("gpu-checks", several, callers["cosine_least"], _WANTED_COSINE, note=f"{callers['gain']:.2f}x as fast"),
    ]


if __name__ == "__main__":
    main()
