"""Scenarios one after the other on one pair of servers, and a table of what came of them."""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.isolation import disk
from tests.chaos.report import say
from tests.chaos.scenarios.scene import Scene, Servers, set_scene
from tests.chaos.scenarios.scripts import SCENARIOS
from tests.chaos.servers import Killable, make_kafka, make_milvus


def play(names: Sequence[str]) -> int:
    """Play them; the exit code is 0 if each ended as it must. The last line of stdout is one JSON object."""
    shown = Table(title="scenarios")
    for column in ("scenario", "verdict", "seconds"):
        shown.add_column(column)
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="scenes-") as folder, ExitStack() as stack:
        servers = _start(Path(folder), stack)
        for seed, name in enumerate(names):
            say(f"scenario: {name}")
            began = time.monotonic()
            found[name] = _play(set_scene(servers, name, seed), name)
            shown.add_row(name, "as it must be" if not found[name] else "NOT", f"{time.monotonic() - began:.0f}")
            for problem in found[name]:
                say(f"  {problem}")
    Console().print(shown)
    sys.stdout.write(json.dumps(found) + "\n")
    return int(any(found.values()))


def _play(scene: Scene, name: str) -> list[str]:
    try:
        SCENARIOS[name](scene)
    except Exception as error:  # the others are played all the same
        scene.problems.append(f"it did not come to its end: {error!r}")
    return scene.problems


def _start(folder: Path, stack: ExitStack) -> Servers:
    say("starting Apache Kafka and Milvus")
    room = stack.enter_context(disk(folder / "milvus"))
    kafka, milvus = make_kafka(folder / "kafka", 0), make_milvus(folder / "milvus")
    for server in (kafka, milvus):
        stack.callback(server.stop)
        server.launch()
    return Servers(folder, Killable(kafka), Killable(milvus, room), kafka.await_ready(), milvus.await_ready())
