"""`python -m tests.chaos --minutes 10 --seed 1`: a run, its report, a line of JSON; exit 0 if nothing was harmed."""

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.chaos.run import Chaos, Report, keep_proof

RATE = 220.0
"""Records a second."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long load and faults go on")
    parser.add_argument("--seed", type=int, default=1, help="of the load and of the faults")
    parser.add_argument("--rate", type=float, default=RATE, help="records a second")
    chosen = parser.parse_args()
    if chosen.minutes < 1 or chosen.rate <= 0:
        parser.error("--minutes is at least 1, --rate more than 0")
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        with Chaos(Path(folder), chosen.seed, chosen.minutes * 60, chosen.rate) as chaos:
            report = chaos.go()
        if report.harms or report.unexpected_ends:
            sys.stderr.write(f"logs and proof: {keep_proof(Path(folder), report)}\n")
    show(report)
    sys.stdout.write(json.dumps(report.as_dict() | {"machine": machine()}) + "\n")
    return 1 if report.harms else 0


def machine() -> dict[str, object]:
    """What it ran on."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "kafka-python": version("kafka-python"),
        "pymilvus": version("pymilvus"),
        "milvus": version("milvus"),
    }


def show(report: Report) -> None:
    """For people."""
    table = Table(title=f"{report.minutes:g} minutes, seed {report.seed}")
    table.add_column("")
    table.add_column("", justify="right")
    told = report.as_dict()
    for kind, count in told.pop("faults").items():
        table.add_row(f"survived: {kind}", str(count))
    for name, value in told.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)
    for each in report.unexpected_ends:
        sys.stdout.write(f"unexpected: {each}\n")
    if report.harms:
        sys.stdout.write(f"{report.verdict!r}\n")


if __name__ == "__main__":
    sys.exit(main())
