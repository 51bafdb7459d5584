"""A contender: chunker and engine as ingest uses them, on the cores of the job; also the peak."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, EmbeddingSettings, load_embedder
from pipeline.embedding.engine.batching import pack, row_length
from pipeline.embedding.engine.openvino_passes import shape_step
from pipeline.embedding.kernels.roofline import ForwardCost, forward_cost, matmul_peak
from pipeline.telemetry import configure_logging
from tests.bench.contender import Go, arguments, contend

_WARM_UP = 64
_PEAK_S = 1.5


def main() -> None:
    """Load the engine once for each precision and number of cores of a job."""
    given = arguments()
    configure_logging("warning", "json")
    texts_of = json.loads(Path(given["texts"]).read_text())
    cost = forward_cost(Path(given["model_folder"]))
    engines: dict[tuple[str, int], Embedder] = {}

    def prepare(job: dict[str, Any]) -> Go:
        key = job["dtype"], job["threads"]
        if key not in engines:
            engines[key] = load_embedder(
                EmbeddingSettings(given["model"], device="cpu", dtype=job["dtype"], threads=job["threads"])
            )
        engine, texts = engines[key], texts_of[job["kind"]][: job["count"]]
        if job["do"] == "peak":
            return lambda: {"peak": _peak(engine), "execution": _execution(engine)}
        chunker = Chunker(engine.tokenizer, ChunkingPolicy())
        embed(engine, chunker, texts[:_WARM_UP], cost)
        return lambda: embed(engine, chunker, texts, cost)

    contend(prepare)


def embed(engine: Embedder, chunker: Chunker, texts: list[str], cost: ForwardCost) -> dict[str, Any]:
    """Tokenize, cut and embed."""
    began = time.process_time()
    chunks = [chunk for document in chunker.chunk(texts) for chunk in document]
    tokenize_cpu_s = time.process_time() - began
    engine.embed(chunks)
    lengths = (
        np.array([len(chunk.token_ids) for chunk in chunks]) + engine.stamp.max_tokens - engine.tokenizer.max_tokens
    )
    return {
        "documents": len(texts),
        "chunks": len(chunks),
        "tokens": int(lengths.sum()),
        "padding": padding(engine, lengths),
        "flops": cost.flops(lengths),
        "tokenize_cpu_s": tokenize_cpu_s,
    }


def padding(engine: Embedder, lengths: NDArray[np.int64]) -> int:
    """Tokens that are computed beside those of the texts, in the batches that the engine makes of these lengths."""
    run = engine.execution
    if run.layout != "padded":
        return 0
    limit, total = engine.stamp.max_tokens, 0
    for batch in pack(lengths.tolist(), run.token_budget, run.workers):
        longest = int(lengths[batch].max())
        step = shape_step(longest) if engine.engine == "openvino" else 1
        total += len(batch) * row_length(longest, step, limit)
    return total - int(lengths.sum())


def _peak(engine: Embedder) -> float:
    run = engine.execution
    return matmul_peak(engine.dtype, "cpu", workers=run.workers, threads=run.threads, seconds=_PEAK_S)


def _execution(engine: Embedder) -> dict[str, Any]:
    run = engine.execution
    return {
        "engine": engine.engine,
        "dtype": engine.dtype,
        "layout": run.layout,
        "workers": run.workers,
        "threads": run.threads,
        "token_budget": run.token_budget,
    }


if __name__ == "__main__":
    main()
