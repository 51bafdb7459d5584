"""`python -m tests.chaos --minutes 10 --seed 1`: a run, its report, a line of JSON; exit 0 if nothing was harmed."""

import argparse
import json
import platform
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from consumers.local.kafka import KAFKA_VERSION
from consumers.local.milvus import STANDALONE_VERSION
from tests.chaos.proof import keep
from tests.chaos.report import Report, say
from tests.chaos.run import Chaos
from tests.chaos.stage import set_stage

RATE = 220.0
"""Records a second."""


def main() -> int:
    """Run it; Ctrl-C and SIGTERM end everything that was started."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long load and faults go on")
    parser.add_argument("--seed", type=int, default=1, help="of the load and of the faults")
    parser.add_argument("--rate", type=float, default=RATE, help="records a second")
    chosen = parser.parse_args()
    if chosen.minutes < 1 or chosen.rate <= 0:
        parser.error("--minutes is at least 1, --rate more than 0")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        try:
            with set_stage(Path(folder), chosen.seed) as stage:
                chaos = Chaos(stage, chosen.seed, chosen.minutes * 60, chosen.rate)
                report = chaos.go()
        except KeyboardInterrupt:
            say("interrupted; everything is ended")
            return 130
        except BaseException:
            say(f"no verdict; logs: {keep(Path(folder), chosen.seed, '')}")
            raise
        if report.harms or report.unexpected_ends:
            say(f"logs and proof: {keep(Path(folder), chosen.seed, chaos.proof)}")
    show(report)
    sys.stdout.write(json.dumps(report.as_dict() | {"machine": machine()}) + "\n")
    return 1 if report.harms else 0


def machine() -> dict[str, object]:
    """What it ran on."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "milvus": STANDALONE_VERSION,
        "kafka-python": version("kafka-python"),
        "pymilvus": version("pymilvus"),
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
