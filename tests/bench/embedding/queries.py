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
_WANTED_ALONE_MS, _WANTED_TOGETHER_MS, _WANTED_CORES, _WANTED_BATCH = 2.5, 25.0, 2, 2.0
"""Of one query the median, of clients at a time the 99th percentile with so many cores; and queries in a batch."""


def main() -> None:
    """In a process of its own: the model behind a batcher, as the query worker has it."""
    from pipeline.embedding import EmbeddingSettings, load_embedder
    from pipeline.query import QueryBatcher
    from pipeline.telemetry import configure_logging
    from pipeline.telemetry.process_memory import frozen

    given = arguments()
    configure_logging("warning", "json")
    model = load_embedder(EmbeddingSettings(given["model"], device="cpu"), queries_first=True)
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


def rows(found: Sequence[Mapping[str, Any]], *, cores: int) -> list[Row]:
    """Medians over the rounds."""
    figures = {name: middle([one[name] for one in found]) for name in found[0]}
    alone, together, size = (figures[name] for name in ("alone_p50_ms", "together_p99_ms", "queries_a_batch"))
    rounds = {name: ", ".join(f"{one[name]:.1f}" for one in found) for name in ("alone_p50_ms", "together_p99_ms")}
    one = f"rounds {rounds['alone_p50_ms']}; in the model {figures['one_in_model_ms']:.1f} ms"
    many = f"rounds {rounds['together_p99_ms']}; a batch takes {figures['batch_in_model_ms']:.1f} ms in the model"
    enough = cores >= _WANTED_CORES
    many += "" if enough else f"; the target is one for {_WANTED_CORES} cores"
    what = f"p99 of {CLIENTS} clients at a time, ms"
    wanted = _WANTED_TOGETHER_MS if enough else None
    return [
        Row("queries", "p50 of one query at a time, ms", alone, _WANTED_ALONE_MS, at_most=True, note=one),
        Row("queries", what, together, wanted, at_most=True, note=many),
        Row("queries", "queries in a batch: batches form", size, _WANTED_BATCH),
    ]


if __name__ == "__main__":
    main()
