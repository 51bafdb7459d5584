"""Searches that come together: how long a query waits for its vector beside 31 others, against one alone."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.bench.children import contender
from tests.bench.contender import Go, arguments, contend
from tests.bench.embedding import texts
from tests.bench.embedding.place import Place
from tests.bench.embedding.rows import Row
from tests.bench.report import middle, say

CLIENTS = 32
ALONE, EACH = 60, 40
"""Queries one after another, and queries of each client."""
_WANTED_SLOWDOWN, _WANTED_TOGETHER = 3.0, 2.0


def main() -> None:
    """In a process of its own: the model behind a batcher, as the query worker has it."""
    from pipeline.embedding import EmbeddingSettings, load_embedder
    from pipeline.query import QueryBatcher
    from pipeline.telemetry import configure_logging
    from pipeline.telemetry.process_memory import frozen

    given = arguments()
    configure_logging("warning", "json")
    model = load_embedder(EmbeddingSettings(given["model"], device="cpu"))
    asked = [first for first, _ in texts.known_items(1000)]
    model.embed_queries(asked[:CLIENTS])
    sizes: list[int] = []
    in_model: list[float] = []

    def embed(found: Sequence[str]) -> NDArray[np.float32]:
        sizes.append(len(found))
        began = time.perf_counter()
        vectors = model.embed_queries(found)
        in_model.append(time.perf_counter() - began)
        return vectors

    def prepare(_: dict[str, Any]) -> Go:
        def go() -> dict[str, Any]:
            in_model.clear()
            with closing(QueryBatcher(embed, cache_size=0)) as batcher:
                alone = asyncio.run(clients(batcher, asked, 1, ALONE))
                one_ms = 1000 * float(np.median(in_model))
                sizes.clear()
                in_model.clear()
                together = asyncio.run(clients(batcher, asked, CLIENTS, EACH))
            return {
                "alone_p50_ms": 1000 * float(np.percentile(alone, 50)),
                "together_p50_ms": 1000 * float(np.percentile(together, 50)),
                "together_p99_ms": 1000 * float(np.percentile(together, 99)),
                "one_in_model_ms": one_ms,
                "batch_in_model_ms": 1000 * float(np.median(in_model)),
                "queries_a_batch": len(together) / len(sizes),
            }

        return go

    with frozen():  # as in the query worker
        contend(prepare)


async def clients(batcher: Any, asked: Sequence[str], count: int, each: int) -> list[float]:
    """Seconds of every query of `count` clients, each of which asks again as soon as it is answered."""
    supply = cycle(asked)

    async def client() -> list[float]:
        taken = []
        for text in islice(supply, each):
            began = time.perf_counter()
            await batcher.embed([text])
            taken.append(time.perf_counter() - began)
        return taken

    return [seconds for taken in await asyncio.gather(*(client() for _ in range(count))) for seconds in taken]


def measure(place: Place, rounds: int) -> list[dict[str, Any]]:
    """Alone and together in turns."""
    found = []
    with contender("embedding.queries", place.arguments(), place.folder) as process:
        for number in range(rounds):
            process.prepare({})
            figures = process.go()
            found.append(figures)
            told = ", ".join(f"{name} {value:.1f}" for name, value in figures.items() if name.endswith(("ms", "batch")))
            say(f"queries, round {number + 1}/{rounds}: {told}")
    return found


def rows(found: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Ratios within a round, then their median."""
    slowdown = middle([one["together_p99_ms"] / one["alone_p50_ms"] for one in found])
    size = middle([one["queries_a_batch"] for one in found])
    note = "; ".join(f"{one['together_p99_ms']:.0f} / {one['alone_p50_ms']:.1f} ms" for one in found)
    batch, alone = (middle([one[name] for one in found]) for name in ("batch_in_model_ms", "one_in_model_ms"))
    if slowdown > _WANTED_SLOWDOWN:
        note += f"; profile: the model takes {alone:.1f} ms for one query, {batch:.1f} ms for a batch of {size:.0f}"
    return [
        Row("queries", f"p99 of {CLIENTS} at a time / p50 of one", slowdown, _WANTED_SLOWDOWN, at_most=True, note=note),
        Row("queries", "queries in a batch: batches form", size, _WANTED_TOGETHER),
    ]


if __name__ == "__main__":
    main()
