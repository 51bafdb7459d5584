"""What the commands of `milvus-stream` share: options, and how they begin and print."""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from consumers.settings import Settings, environment, load_settings
from pipeline.printable import printable

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file [default: milvus-stream.yaml where it exists]")
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="override one setting")]
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]


def load(config: Path | None, sets: list[str] | None) -> Settings:
    """The configuration that these options mean, with logging set up as it says."""
    from pipeline.telemetry import configure_logging

    settings = load_settings(config, environment(), sets or ())
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format)
    return settings


def print_json(value: Any) -> None:
    """A result for programs, on stdout; a text in it cannot steer the terminal it is looked at on."""
    lines = json.dumps(value, ensure_ascii=False, indent=2).split("\n")
    sys.stdout.write("".join(printable(line) + "\n" for line in lines))


def stop_on_signals() -> threading.Event:
    """An event set by the first SIGTERM or SIGINT; the second one ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop
