"""`python -m tests.bench.overload`: the query worker under ten times its load, and both workers over minutes.

Loopback only, and bounded in time. Every search goes over real sockets; the load is that of the recovery tests.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.telemetry import configure_logging
from tests.bench.overload.burst import burst
from tests.bench.overload.soak import soak
from tests.bench.report import Target, show_table, show_targets
from tests.bench.stage import stage
from tests.bench.workers import workers

PARTS = ("burst", "soak")


def main() -> None:
    """Run the parts; tables on standard output, the last line one JSON object. Exit 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="make bench-overload ARGS=…", description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--clients", type=int, default=300, help="of the burst; by default ten times query.concurrency")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the burst")
    parser.add_argument("--minutes", type=float, default=8.0, help="of the soak")
    parser.add_argument("--model", default="hash:384")
    options = parser.parse_args()
    configure_logging("warning", "text")
    out = Console(width=160, highlight=False)
    result: dict[str, Any] = {}
    targets: list[Target] = []
    with tempfile.TemporaryDirectory(prefix="milvus-stream-overload-") as folder:
        servers = os.environ.get("KAFKA_BOOTSTRAP"), os.environ.get("MILVUS_URI")
        with stage(*servers, Path(folder), model=False) as made, workers(made, options.model) as at:
            if options.only != "soak":
                rows, reached = burst(at, options.clients, options.seconds)
                show_table(out, "searches by clients at a time, and the query worker's use", rows)
                result["burst"], targets = rows, targets + reached
            if options.only != "burst":
                rows, reached = soak(at, made.kafka, 60 * options.minutes)
                show_table(out, f"{options.minutes:g} minutes", rows)
                result["soak"], targets = rows, targets + reached
            ends = at.end()
    for name, (code, seconds) in ends.items():
        out.print(f"{name}: exit {code}, {seconds:.1f} s after SIGTERM")
        targets.append(Target(f"exit code of {name}", code, 0, at_most=True))
    show_targets(out, targets)
    sys.stdout.write(json.dumps({**result, "targets": [target.as_dict() for target in targets]}) + "\n")
    raise SystemExit(int(not all(target.reached for target in targets)))


if __name__ == "__main__":
    main()
