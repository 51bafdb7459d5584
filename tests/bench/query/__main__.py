"""`python -m tests.bench.query`: what searches find, mode by mode, and how long they take; see docs/benchmarks.md."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from consumers.local import LocalMilvusLite
from pipeline.embedding import Embedder, EmbeddingSettings, load_embedder
from pipeline.telemetry import configure_logging
from tests.bench.embedding import texts
from tests.bench.machine import hardware
from tests.bench.query import found, latency, partition_counts
from tests.bench.query.labelled import label
from tests.bench.report import Target, show_machine, show_table, show_targets
from tests.bench.stage import stage

_PACKAGES = ("milvus-stream", "milvus-lite", "pymilvus", "openvino")


PARTS = ("found", "latency", "partitions")
_HYBRID_TEXTS = 500


def main() -> None:
    """Tables on standard output, the last line one JSON object."""
    options = _options()
    configure_logging("warning", "text")
    out = Console(width=140, highlight=False)
    machine = hardware(_PACKAGES)
    show_machine(out, machine)
    parts = options.only
    result: dict[str, Any] = {"machine": machine, "model": options.model}
    wanted: list[Target] = []
    with tempfile.TemporaryDirectory(prefix="milvus-stream-bench-") as name:
        folder = Path(name)
        if {"found", "latency"} & set(parts):
            with closing(load_embedder(EmbeddingSettings(options.model), queries_first=True)) as model:
                wanted += _on_lite(out, options, folder, model, result)
                if "latency" in parts:
                    wanted += _on_server(out, options, folder, model, result)
        if "partitions" in parts:
            with stage(*_servers(), folder / "partitions", model=False) as made:
                rows = partition_counts.measure(made)
            show_table(out, "searches of one day of a collection", rows)
            result["partitions"], wanted = rows, [*wanted, *partition_counts.targets(rows)]
    show_targets(out, wanted)
    sys.stdout.write(json.dumps({**result, "targets": [target.as_dict() for target in wanted]}) + "\n")


def _on_lite(
    out: Console, options: argparse.Namespace, folder: Path, model: Embedder, result: dict[str, Any]
) -> list[Target]:
    """What is found, and hybrid against dense: the Milvus at hand that compares words is Lite."""
    wanted: list[Target] = []
    with LocalMilvusLite(folder / "bench.db") as uri:
        for corpus, read in CORPORA.items() if "found" in options.only else ():
            labelled = label(read()[: options.texts], options.queries)
            by_mode = found.measure(uri, model, labelled)
            result[corpus] = {"texts": len(labelled.texts), "queries": len(labelled.queries), "found": by_mode}
            _show(out, corpus, len(labelled.texts), by_mode)
            wanted += found.targets(corpus, by_mode)
        if "latency" in options.only:
            with found.filled(uri, model, texts.documents()[:_HYBRID_TEXTS]) as collection:
                figures = latency.hybrid(folder, uri, collection, options.model, _asked())
            show_table(out, "searches on Milvus Lite, ms", [figures])
            result["hybrid"], wanted = figures, [*wanted, *latency.hybrid_targets(figures)]
    return wanted


def _on_server(
    out: Console, options: argparse.Namespace, folder: Path, model: Embedder, result: dict[str, Any]
) -> list[Target]:
    with stage(*_servers(), folder / "servers", model=False) as made:
        figures = latency.measure(made, options.model, model, _asked())
    show_table(out, "searches on a Milvus server", [{"": name, "figure": value} for name, value in figures.items()])
    result["latency"] = figures
    return latency.targets(figures)


def _servers() -> tuple[str | None, str | None]:
    return os.environ.get("KAFKA_BOOTSTRAP"), os.environ.get("MILVUS_URI")


def _asked() -> Sequence[str]:
    return [first for first, _ in texts.known_items(400)]


def _packages() -> Sequence[str]:
    return texts.package_descriptions(texts.PACKAGES_FILE.read_text(errors="replace").splitlines())


CORPORA: Mapping[str, Callable[[], Sequence[str]]] = {"documentation": texts.documents, "packages": _packages}


def _show(out: Console, corpus: str, count: int, by_mode: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    rows = [
        {
            "mode": mode,
            **{
                f"{kind}: first / in {found.DEPTH}": f"{figures['first']:.1%} / {figures['recall']:.1%}"
                for kind, figures in kinds.items()
            },
        }
        for mode, kinds in by_mode.items()
    ]
    show_table(out, f"{corpus}, {count} texts: share of queries whose text is found", rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-query ARGS=…", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="may be repeated; all by default")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=int, default=1500, help="of each corpus, at most")
    parser.add_argument("--queries", type=int, default=100, help="of each kind and corpus, at most")
    options = parser.parse_args()
    options.only = options.only or PARTS
    return options


if __name__ == "__main__":
    main()
