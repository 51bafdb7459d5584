"""A contender: chunker and engine as ingest uses them, on the cores of the job; also the peak, and a profile."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch._C._profiler import _ExperimentalConfig  # the public names do not see the engine's own threads
from torch.profiler import ProfilerActivity, profile

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, EmbeddingSettings, load_embedder
from pipeline.embedding.kernels.roofline import ForwardCost, forward_cost, matmul_peak
from pipeline.telemetry import configure_logging
from tests.bench.contender import Go, arguments, contend

_WARM_UP = 64
_PEAK_S = 1.5
_SHOWN = 5


def main() -> None:
    """Load the engine once for each precision and number of cores asked for."""
    given = arguments()
    configure_logging("warning", "json")
    texts_of = json.loads(Path(given["texts"]).read_text())
    cost = forward_cost(Path(given["model_folder"]))
    engines: dict[tuple[str, int | None, bool], Embedder] = {}
    load_s: dict[tuple[str, int | None, bool], float] = {}

    def prepare(job: dict[str, Any]) -> Go:
        key = job["dtype"], job["threads"], job["compile"]
        if key not in engines:
            began = time.perf_counter()
            engines[key] = load_embedder(
                EmbeddingSettings(
                    given["model"], device="cpu", dtype=job["dtype"], threads=job["threads"], compile=job["compile"]
                )
            )
            load_s[key] = time.perf_counter() - began
        engine, texts = engines[key], texts_of[job["kind"]][: job["count"]]
        chunker = Chunker(engine.tokenizer, ChunkingPolicy())
        embed(engine, chunker, texts[:_WARM_UP], cost)
        does: Mapping[str, Callable[[], dict[str, Any]]] = {
            "embed": lambda: {**embed(engine, chunker, texts, cost), "load_s": load_s[key]},
            "peak": lambda: {"peak": _peak(engine), "execution": _execution(engine)},
            "profile": lambda: _profile(engine, chunker, texts, cost),
        }
        return does[job["do"]]

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
        "flops": cost.flops(lengths),
        "tokenize_cpu_s": tokenize_cpu_s,
    }


def _peak(engine: Embedder) -> float:
    run = engine.execution
    return matmul_peak(engine.dtype, "cpu", workers=run.workers, threads=run.threads, seconds=_PEAK_S)


def _execution(engine: Embedder) -> dict[str, Any]:
    run = engine.execution
    return {
        "dtype": engine.dtype,
        "layout": run.layout,
        "workers": run.workers,
        "threads": run.threads,
        "token_budget": run.token_budget,
    }


def _profile(engine: Embedder, chunker: Chunker, texts: list[str], cost: ForwardCost) -> dict[str, Any]:
    """Where the processor time of embedding goes: shares of torch's own operations, the largest first."""
    config = _ExperimentalConfig(profile_all_threads=True)
    with profile(activities=[ProfilerActivity.CPU], experimental_config=config) as profiler:
        figures = embed(engine, chunker, texts, cost)
    times = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(times.values())
    largest = sorted(times.items(), key=lambda item: -item[1])[:_SHOWN]
    return {**figures, "profile": {name: round(spent / total, 3) for name, spent in largest}}


if __name__ == "__main__":
    main()
