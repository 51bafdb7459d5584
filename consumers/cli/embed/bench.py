"""`milvus-stream bench embed`: what this machine does with a model, to size hardware by."""

import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from statistics import median
from typing import Any

import numpy as np

from consumers.cli.common.output import stdout, table
from consumers.config import Settings
from consumers.local import stdlib_documents
from consumers.wiring import documents
from pipeline.chunking import Chunker
from pipeline.embedding import Embedder, HashEmbedder
from pipeline.errors import UsageError
from pipeline.telemetry import process_memory

ROUNDS = 3
_FIRST = 32
"""Texts of the warm-up, by whose time the rest is portioned."""
_QUERIES = 30
_PEAK_SHARE = 0.15
"""Of the time, for measuring the peak."""
_PACKAGES = ("milvus-stream", "openvino", "torch", "transformers", "sentence-transformers", "tokenizers")


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did."""

    documents: int
    chunks: int
    tokens: int
    """Of all chunks, without special tokens and padding; an overlap counts as often as the model reads it."""
    flops: float
    chunk_s: float
    """Seconds of tokenizing and cutting."""
    embed_s: float
    cpu_s: float
    """Processor seconds of embedding."""
    peak: float
    """Floating-point operations per second of matrix products, measured just before."""


def measure(settings: Settings, seconds: float) -> dict[str, Any]:
    """Load the configured model and measure it. Raises UsageError for `hash:` or a model that cannot be loaded."""
    if HashEmbedder.is_hash_model(settings.embedding.model):
        raise UsageError(f"embedding.model is {settings.embedding.model}: there is no model to measure, set one")
    say(f"loading {settings.embedding.model}")
    began = time.perf_counter()
    with documents.embedder(settings) as model:
        loaded_s = time.perf_counter() - began
        bench = _Bench(model, documents.chunker(settings, model), settings.batch.max_records)
        rounds = bench.run(seconds)
        return {
            **_facts(model),
            "load_s": round(loaded_s, 1),
            "query_ms_p50": bench.query_ms(),
            **summarize(rounds),
            **bench.memory(),
        }


class _Bench:
    """Embeds the standard library's documentation over and over, in batches as ingest makes them."""

    def __init__(self, model: Embedder, chunker: Chunker, together: int) -> None:
        """`together` documents are embedded at a time, fewer where that takes long."""
        from pipeline.embedding import find_model, forward_cost

        self._model = model
        self._chunker = chunker
        self._together = together
        self._texts = [document.text for document in stdlib_documents()]
        self._next = 0
        self._cost = forward_cost(find_model(model.stamp.name))
        self._around = model.stamp.max_tokens - model.tokenizer.max_tokens
        self._loaded = self._held()
        self._most = self._loaded

    def run(self, seconds: float) -> list[Round]:
        """The rounds, each with a measurement of the peak just before; together they take about `seconds`."""
        began = time.perf_counter()
        self._work(_FIRST)  # the first forward passes allocate and compile
        window = seconds * (1 - _PEAK_SHARE) / ROUNDS
        per_document = (time.perf_counter() - began) / _FIRST
        size = int(min(max(window / 4 / per_document, _FIRST), self._together))
        rounds = []
        for number in range(ROUNDS):
            say(f"round {number + 1} of {ROUNDS}, {window:.0f} s")
            peak = self._peak(seconds * _PEAK_SHARE / ROUNDS)
            self._forget_most()
            parts, ends = [self._work(size)], time.perf_counter() + window
            while time.perf_counter() < ends:
                parts.append(self._work(size))
            rounds.append(Round(**{field: sum(part[field] for part in parts) for field in parts[0]}, peak=peak))
            self._note_most()
        return rounds

    def query_ms(self) -> float:
        """Median time of one query alone: the first line of a text."""
        times = []
        for text in self._texts[:_QUERIES]:
            began = time.perf_counter()
            self._model.embed_queries([text.partition("\n")[0]])
            times.append(1000 * (time.perf_counter() - began))
        return _median(times)

    def memory(self) -> dict[str, int | None]:
        """Bytes held when the model was loaded, and at most while it embedded: the GPU's, or this process's."""
        return {"memory_loaded_bytes": self._loaded, "memory_peak_bytes": self._most}

    def _work(self, count: int) -> dict[str, Any]:
        """Chunk and embed the next `count` documents."""
        documents = [self._texts[(self._next + index) % len(self._texts)] for index in range(count)]
        self._next += count
        began = time.perf_counter()
        chunks = [chunk for document in self._chunker.chunk(documents) for chunk in document]
        chunked, cpu = time.perf_counter(), time.process_time()
        self._model.embed(chunks)
        embedded, cpu = time.perf_counter(), time.process_time() - cpu
        lengths = np.fromiter((len(chunk.token_ids) for chunk in chunks), dtype=np.int64, count=len(chunks))
        return {
            "documents": count,
            "chunks": len(chunks),
            "tokens": int(lengths.sum()),
            "flops": self._cost.flops(lengths + self._around),
            "chunk_s": chunked - began,
            "embed_s": embedded - chunked,
            "cpu_s": cpu,
        }

    def _peak(self, seconds: float) -> float:
        from pipeline.embedding import matmul_peak

        run, dtype = self._model.execution, _peak_dtype(self._model)
        return matmul_peak(dtype, self._model.device, workers=run.workers, threads=max(1, run.threads), seconds=seconds)

    def _held(self) -> int | None:
        from pipeline.embedding import gpu_memory

        on_cpu = self._model.device == "cpu"
        return process_memory.resident_bytes() if on_cpu else gpu_memory(self._model.device)[0]

    def _forget_most(self) -> None:
        from pipeline.embedding import forget_gpu_peak

        process_memory.forget_peak() if self._model.device == "cpu" else forget_gpu_peak(self._model.device)

    def _note_most(self) -> None:
        from pipeline.embedding import gpu_memory

        on_cpu = self._model.device == "cpu"
        most = process_memory.peak_bytes() if on_cpu else gpu_memory(self._model.device)[1]
        if self._most is not None and most is not None:
            self._most = max(self._most, most)


def summarize(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over the rounds; a share is taken within its round, then the median of the shares."""
    return {
        "tokens_per_s": _median(measured.tokens / measured.embed_s for measured in rounds),
        "documents_per_s": _median(measured.documents / measured.embed_s for measured in rounds),
        "chunks_per_s": _median(measured.chunks / measured.embed_s for measured in rounds),
        "tokens_per_document": _median(measured.tokens / measured.documents for measured in rounds),
        "tokenizing_documents_per_s": _median(measured.documents / measured.chunk_s for measured in rounds),
        "cpu_s_per_1000_documents": _median(1000 * measured.cpu_s / measured.documents for measured in rounds),
        "flops_per_s": _median(measured.flops / measured.embed_s for measured in rounds),
        "peak_flops_per_s": _median(measured.peak for measured in rounds),
        "share_of_peak": _median(measured.flops / measured.embed_s / measured.peak for measured in rounds),
        "documents_per_s_rounds": [float(f"{measured.documents / measured.embed_s:.4g}") for measured in rounds],
    }


def show(figures: Mapping[str, Any]) -> None:
    """The figures as a table, rates first."""
    spread = ", ".join(f"{rate:,.0f}" for rate in figures["documents_per_s_rounds"])
    tokens_each = f"{figures['tokens_per_document']:.0f} tokens each"
    share, peak = figures["share_of_peak"], figures["peak_flops_per_s"]
    where = "GPU memory" if figures["device"] != "cpu" else "memory of the process"
    rows = [
        ("tokens/s", f"{figures['tokens_per_s']:,.0f}"),
        (
            "documents/s",
            f"{figures['documents_per_s']:,.0f} (rounds: {spread}), {tokens_each}",
        ),
        ("chunks/s", f"{figures['chunks_per_s']:,.0f}"),
        (
            "share of the matrix-product peak",
            f"{share:.0%} of {peak / 1e9:,.0f} GFLOP/s in {figures['peak_dtype']}",
        ),
        ("tokenizing and cutting, documents/s", f"{figures['tokenizing_documents_per_s']:,.0f}"),
        ("what limits", _limit(figures["documents_per_s"], figures["tokenizing_documents_per_s"])),
        ("processor seconds for 1,000 documents", f"{figures['cpu_s_per_1000_documents']:.1f}"),
        ("one query, p50", f"{figures['query_ms_p50']:.1f} ms"),
        (f"peak of the {where}", _memory(figures)),
        ("loading", f"{figures['load_s']:.1f} s"),
        ("batches", f"{figures['token_budget']:,} tokens, {figures['layout']}"),
        ("forward passes at a time", f"{figures['workers']}" + _threads(figures)),
        ("model", f"{figures['model']}, {figures['dimension']} dimensions, {figures['max_tokens']} tokens"),
        ("run on", f"{figures['device']} in {figures['dtype']}; {figures['processor']}, {figures['cores']} cores"),
        ("versions", ", ".join(f"{name} {number}" for name, number in figures["versions"].items())),
    ]
    stdout().print(table(("", "measured"), rows))


def _limit(model: float, tokenizing: float) -> str:
    """What one worker waits for: it tokenizes and embeds at the same time, so the slower of the two."""
    if tokenizing >= model:
        return f"the model; tokenizing could feed {tokenizing / model:,.1f} of them"
    return (
        f"tokenizing; {ceil(model / tokenizing)} ingest workers on this device, with as many times the cores, feed it"
    )


def _peak_dtype(model: Embedder) -> str:
    """The precision whose peak is measured: torch has no fast products in int8."""
    return "float32" if model.dtype == "int8" else model.dtype


def _memory(figures: Mapping[str, Any]) -> str:
    loaded, most = figures["memory_loaded_bytes"], figures["memory_peak_bytes"]
    if loaded is None or most is None:
        return "not known on this system"
    return f"{most / 2**30:.2f} GiB; when the model was loaded {loaded / 2**30:.2f} GiB"


def _threads(figures: Mapping[str, Any]) -> str:
    return f", each with {figures['threads']} threads" if figures["threads"] else ""


def _facts(model: Embedder) -> dict[str, Any]:
    from pipeline.embedding import available_cpus, processor_name

    stamp, run = model.stamp, model.execution
    return {
        "model": stamp.name,
        "digest": stamp.digest,
        "dimension": stamp.dimension,
        "max_tokens": stamp.max_tokens,
        "device": model.device,
        "dtype": model.dtype,
        "peak_dtype": _peak_dtype(model),
        "layout": run.layout,
        "workers": run.workers,
        "threads": run.threads,
        "token_budget": run.token_budget,
        "processor": processor_name(model.device),
        "cores": available_cpus(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _median(values: Iterable[float]) -> float:
    return float(f"{median(values):.4g}")


def say(text: str) -> None:
    """Report progress on stderr."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()
