"""`python -m tests.bench.embedding`: the embedding engine against its targets; see docs/benchmarks.md."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.telemetry import configure_logging
from tests.bench.embedding import gpu, gpu_checks, memory, pipelined, quality, queries, reading, speed, speed_rows
from tests.bench.embedding.place import Place, with_texts
from tests.bench.embedding.rows import Row, show
from tests.bench.machine import hardware
from tests.bench.report import show_machine

PARTS = ("speed", "quality", "queries", "memory", "reading", "gpu", "gpu-checks", "drain", "hash")
_WITH_TEXTS = {"speed", "quality", "queries", "memory", "reading"}
_PACKAGES = ("milvus-stream", "openvino", "nncf", "torch", "transformers", "sentence-transformers", "tokenizers")


def main() -> None:
    """Run the parts; tables on standard output, the last line one JSON object."""
    options = _options()
    configure_logging("warning", "text")
    out = Console(width=160, highlight=False)
    machine = hardware(_PACKAGES)
    show_machine(out, machine)
    found: list[Row] = []
    result: dict[str, Any] = {"machine": machine, "model": options.model}
    with tempfile.TemporaryDirectory(prefix="milvus-stream-bench-") as folder:
        place = Place(Path(folder), machine, options.model)
        if _WITH_TEXTS & set(options.only):
            place = with_texts(Path(folder), machine, options.model, options.texts)
        for part in (part for part in PARTS if part in options.only):
            result[part], rows = _run(part, place, options, out)
            found += rows
    show(out, found)
    sys.stdout.write(json.dumps({**result, "rows": [row.as_dict() for row in found]}) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-embed ARGS=…", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; repeatable [default: all]")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=256, help="of each kind in the speed part")
    parser.add_argument("--real-texts", type=int, default=1200, help="of the quality part")
    parser.add_argument("--documents", type=int, default=3000, help="of the drain part")
    parser.add_argument("--records", type=int, default=200_000, help="of the hash part")
    options = parser.parse_args()
    options.only = options.only or list(PARTS)
    return options


def _run(
    part: str, place: Place, options: argparse.Namespace, out: Console
) -> tuple[Mapping[str, Any] | list[Any], list[Row]]:
    """The figures of a part and its rows."""
    if part == "speed":
        legs = speed.measure(place, options.rounds, options.texts)
        speed_rows.show(out, legs)
        return speed_rows.as_dict(legs), speed_rows.rows(legs, place.machine)
    parts: Mapping[str, Callable[[], tuple[Any, list[Row]]]] = {
        "quality": lambda: _with(quality.rows, quality.measure(place, options.real_texts)),
        "queries": lambda: _with(
            partial(queries.rows, cores=place.machine["cores"]), queries.measure(place, options.rounds)
        ),
        "memory": lambda: _with(memory.rows, memory.measure(place, options.texts)),
        "reading": lambda: _with(reading.rows, reading.measure(place, options.rounds)),
        "gpu": lambda: _with(gpu.rows, gpu.measure(place, options.rounds)),
        "gpu-checks": lambda: _with(gpu_checks.rows, gpu_checks.measure(place)),
        "drain": lambda: pipelined.drain_part(place, out, options.documents, options.rounds),
        "hash": lambda: pipelined.hash_part(place, out, options.records, options.rounds),
    }
    return parts[part]()


def _with(rows: Callable[[Any], list[Row]], figures: Any) -> tuple[Any, list[Row]]:
    return figures, rows(figures)


if __name__ == "__main__":
    main()
