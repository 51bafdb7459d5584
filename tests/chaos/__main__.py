"""`python -m tests.chaos --minutes 10 --seed 1 2 3`: runs, their reports, a line of JSON each; exit 0 if all are right.

`--scenario NAME …` instead plays what must end with a stop (`--scenario all`: all of them).
"""

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

from consumers.local.kafka import KAFKA_VERSION, java_and_class_path
from consumers.local.milvus import STANDALONE_VERSION
from tests.chaos.isolation import isolate, isolated
from tests.chaos.profile import profile_of
from tests.chaos.proof import keep
from tests.chaos.report import Report, say, table
from tests.chaos.run import Chaos
from tests.chaos.scenarios import SCENARIOS, play
from tests.chaos.server_alone import unexplained
from tests.chaos.stage import set_stage

RATE = 220.0
"""Records a second."""


def main() -> int:
    """Run it; Ctrl-C and SIGTERM end everything that was started."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long load and faults go on")
    parser.add_argument("--seed", type=int, nargs="+", default=[1], help="of the load and of the faults; a run each")
    parser.add_argument("--rate", type=float, default=RATE, help="records a second")
    parser.add_argument("--scenario", nargs="+", choices=(*SCENARIOS, "all"), help="play these instead")
    chosen = parser.parse_args()
    if chosen.minutes < 1 or chosen.rate <= 0:
        parser.error("--minutes is at least 1, --rate more than 0")
    java_and_class_path()  # an own network reaches no repository: what is missing is fetched before
    isolate(["-m", "tests.chaos", *sys.argv[1:]])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if chosen.scenario:
            return play(list(SCENARIOS) if "all" in chosen.scenario else chosen.scenario)
        reports = [_run(seed, chosen.minutes, chosen.rate) for seed in chosen.seed]
    except KeyboardInterrupt:
        say("interrupted; everything is ended")
        return 130
    if len(reports) > 1:
        sys.stdout.write(table(reports) + "\n")
    for report in reports:
        sys.stdout.write(json.dumps(report.as_dict() | {"machine": machine()}) + "\n")
    return int(any(report.failed for report in reports))


def _run(seed: int, minutes: float, rate: float) -> Report:
    """One run in a folder and on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        try:
            with set_stage(folder, seed, profile_of(seed)) as stage:
                chaos = Chaos(stage, seed, minutes * 60, rate)
                report = chaos.go()
            if report.shown_until_reload:
                say(f"shown until a reload: {dict(report.shown_until_reload)}; does the server do that alone?")
                report.unexplained = unexplained(report.shown_until_reload.keys(), folder / "alone")
        except Exception:
            say(f"no verdict; logs: {keep(folder, seed, '')}")
            raise
        if report.failed:
            say(f"logs and proof: {keep(folder, seed, chaos.proof)}")
    show(report)
    return report


def machine() -> dict[str, object]:
    """What it ran on."""
    return {
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "isolated": isolated(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "milvus": STANDALONE_VERSION,
        "kafka-python": version("kafka-python"),
        "pymilvus": version("pymilvus"),
    }


def show(report: Report) -> None:
    """For people."""
    shown = Table(title=f"{report.minutes:g} minutes, seed {report.seed}, {report.profile}")
    shown.add_column("")
    shown.add_column("", justify="right")
    values = report.as_dict()
    for kind, count in values.pop("faults").items():
        shown.add_row(f"survived: {kind}", str(count))
    for kind, count in values.pop("jobs").items():
        shown.add_row(f"exit code of {kind}", str(count))
    for name, value in values.items():
        shown.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(shown)
    for each in report.unexpected_ends:
        sys.stdout.write(f"ended by itself: {each}\n")
    if report.harms:
        sys.stdout.write(f"{report.verdict!r}\n")


if __name__ == "__main__":
    sys.exit(main())
