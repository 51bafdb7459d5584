"""`python -m tests.bench.query`: what searches find, mode by mode; see docs/benchmarks.md."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from consumers.local import LocalMilvusLite
from pipeline.embedding import EmbeddingSettings, load_embedder
from pipeline.telemetry import configure_logging
from tests.bench.embedding import texts
from tests.bench.machine import hardware
from tests.bench.query import found
from tests.bench.query.labelled import label
from tests.bench.report import Target, show_machine, show_table, show_targets

_PACKAGES = ("milvus-stream", "milvus-lite", "pymilvus", "openvino")


def main() -> None:
    """Tables on standard output, the last line one JSON object."""
    options = _options()
    configure_logging("warning", "text")
    out = Console(width=140, highlight=False)
    machine = hardware(_PACKAGES)
    show_machine(out, machine)
    model = load_embedder(EmbeddingSettings(options.model))
    result: dict[str, Any] = {"machine": machine, "model": options.model}
    wanted: list[Target] = []
    with (
        tempfile.TemporaryDirectory(prefix="milvus-stream-bench-") as folder,
        LocalMilvusLite(Path(folder) / "bench.db") as uri,
    ):
        for corpus, read in CORPORA.items():
            labelled = label(read()[: options.texts], options.queries)
            by_mode = found.measure(uri, model, labelled)
            result[corpus] = {"texts": len(labelled.texts), "queries": len(labelled.queries), "found": by_mode}
            _show(out, corpus, len(labelled.texts), by_mode)
            wanted += found.targets(corpus, by_mode)
    model.close()
    show_targets(out, wanted)
    sys.stdout.write(json.dumps({**result, "targets": [target.as_dict() for target in wanted]}) + "\n")


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
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=int, default=1500, help="of each corpus, at most")
    parser.add_argument("--queries", type=int, default=100, help="of each kind and corpus, at most")
    return parser.parse_args()


if __name__ == "__main__":
    main()
