"""`python -m tests.bench`: what this machine does, against baselines of the same run; see docs/benchmarks.md."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.telemetry import configure_logging
from tests.bench import drain, freshness, hash_drain
from tests.bench.machine import hardware
from tests.bench.report import Target, say, show_machine, show_targets
from tests.bench.stage import Stage, stage

PARTS = ("drain", "hash", "freshness")
PACKAGES = ("milvus-stream", "openvino", "torch", "sentence-transformers", "kafka-python", "pymilvus", "numpy")


def main() -> None:
    """Run the parts; tables on standard output, the last line one JSON object."""
    options = _options()
    configure_logging("warning", "text")
    parts = (options.only,) if options.only else PARTS
    with tempfile.TemporaryDirectory(prefix="milvus-stream-bench-") as folder:
        servers = os.environ.get("KAFKA_BOOTSTRAP"), os.environ.get("MILVUS_URI")
        with stage(*servers, Path(folder), model=parts != ("hash",)) as made:
            result = _run(made, parts, options)
    sys.stdout.write(json.dumps(result) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__)
    parser.add_argument("--documents", type=int, default=3000, help="in each set of the drain part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of publishing in the freshness part")
    parser.add_argument("--records", type=int, default=200_000, help="of the hash part")
    return parser.parse_args()


def _run(made: Stage, parts: tuple[str, ...], options: argparse.Namespace) -> dict[str, Any]:
    out = Console(width=160, highlight=False)
    machine = {**hardware(PACKAGES), **made.versions(), "model": dict(made.model) if made.model else None}
    show_machine(out, machine)
    result: dict[str, Any] = {"machine": machine}
    targets: list[Target] = []
    rate: float | None = None
    if "drain" in parts:
        found = drain.measure(made, options.documents, options.rounds)
        result["drain"] = drain.summarize(found)
        rate = result["drain"]["mixed"]["ours"]["documents_per_s"]
        drain.show(out, result["drain"], machine["model"]["dtype"])
        targets += drain.targets(result["drain"], machine)
    if "hash" in parts:
        appended = hash_drain.measure(made, options.records, options.rounds)
        upserted = hash_drain.measure_upserts(made, options.records // 4, options.rounds)
        result["hash"] = hash_drain.summarize(appended, upserted, machine["cores"])
        hash_drain.show(out, result["hash"])
        targets += hash_drain.targets(result["hash"])
    if "freshness" in parts:
        if rate is None:
            say("measuring the drain rate first")
            rate = drain.quick_rate(made, options.documents)
        result["freshness"] = freshness.measure(made, rate, options.seconds)
        freshness.show(out, result["freshness"])
        targets += freshness.targets(result["freshness"])
    show_targets(out, targets)
    return {**result, "targets": [target.as_dict() for target in targets]}


if __name__ == "__main__":
    main()
