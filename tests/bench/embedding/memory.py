"""How much memory the engine takes above the loaded model, whatever lengths come together."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.telemetry import process_memory
from tests.bench.children import contender
from tests.bench.contender import Go, arguments, contend
from tests.bench.embedding import texts
from tests.bench.embedding.place import Place
from tests.bench.embedding.rows import Row
from tests.bench.report import say

WANTED_BYTES = 300_000_000
_MIXES = ("short", "long", "mixed", "one long among short", "one short among long")
_MANY, _BATCHES = "many batches of other lengths each", 300
_KINDS = ((16, 254), (60, 64), (150, 20))
"""Texts of such a batch, and their most tokens."""


def main() -> None:
    """In a process of its own: load, then embed each mix and see what the process held at most."""
    from pipeline.chunking import Chunker, ChunkingPolicy
    from pipeline.embedding import EmbeddingSettings, load_embedder
    from pipeline.records import Chunk
    from pipeline.telemetry import configure_logging

    given = arguments()
    configure_logging("warning", "json")
    engine = load_embedder(EmbeddingSettings(given["model"], device="cpu"))
    chunker = Chunker(engine.tokenizer, ChunkingPolicy(overlap=0))

    def chunks_of(found: Sequence[str]) -> list[Chunk]:
        return [chunk for chunks in chunker.chunk(found) for chunk in chunks]

    def prepare(job: dict[str, Any]) -> Go:
        count = job["count"]
        short = chunks_of(texts.short(engine.tokenizer, 4 * count))
        stream = chunks_of([" ".join(texts.documents())[: 2000 * count]])
        long = [chunk for chunk in stream if len(chunk.token_ids) > 0.9 * engine.tokenizer.max_tokens][:count]
        mixed = chunks_of(texts.mixed(engine.tokenizer, count))
        mixes = dict(zip(_MIXES, (short, long, mixed, [*short, long[0]], [*long, short[0]]), strict=True))
        random.Random(1).shuffle(mixed)
        base = process_memory.resident_bytes()
        rng = random.Random(2)

        def any_batch() -> list[Chunk]:
            count, most = rng.choice(_KINDS)
            cut = (chunk.token_ids[: rng.randint(1, most)] for chunk in rng.choices(long, k=count))
            return [Chunk(0, 0, 1, "x", ids) for ids in cut]

        def go() -> dict[str, Any]:
            above = {}
            for name, chunks in mixes.items():
                process_memory.forget_peak()
                engine.embed(chunks)
                above[name] = (process_memory.peak_bytes() or 0) - (base or 0)
            process_memory.forget_peak()
            for _ in range(_BATCHES):
                engine.embed(any_batch())
            above[_MANY] = (process_memory.peak_bytes() or 0) - (base or 0)
            return {"above_bytes": above, "loaded_bytes": base, "chunks": {name: len(mixes[name]) for name in mixes}}

        return go

    contend(prepare)


def measure(place: Place, count: int) -> dict[str, Any]:
    """`count` texts at a time; Linux only, where the kernel lets the peak be counted anew."""
    with contender("embedding.memory", place.arguments(), place.folder) as process:
        process.prepare({"count": count})
        figures = process.go()
    say(f"memory above the loaded model, MB: { {name: round(b / 1e6) for name, b in figures['above_bytes'].items()} }")
    return figures


def rows(figures: Mapping[str, Any]) -> list[Row]:
    """The worst mix counts."""
    above = figures["above_bytes"]
    note = ", ".join(f"{name} {taken / 1e6:.0f}" for name, taken in above.items())
    what = "peak memory of the engine above the loaded model, MB"
    return [Row("memory", what, max(above.values()) / 1e6, WANTED_BYTES / 1e6, at_most=True, note=note)]


if __name__ == "__main__":
    main()
