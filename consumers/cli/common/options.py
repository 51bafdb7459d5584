"""What the commands of `milvus-stream` share: options, and how they begin and print.

Every `--help` imports this module, so what only a running command needs is imported in its function.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from consumers.config import Settings

ConfigFile = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file [default: milvus-stream.yaml where it exists]")
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="override one setting")]
FOUND_PROBLEMS = 5
"""The exit code of a check that found something wrong."""

Url = Annotated[
    str | None,
    typer.Option(metavar="http://HOST:PORT", help="ask this query worker, with client.api_key, and open no Milvus"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON on stdout")]


def load(config: Path | None, sets: list[str] | None, *, worker: str | None = None) -> "Settings":
    """Load the configuration and set up logging as configured; every line of a `worker` of several has its name."""
    import structlog

    from consumers.config import configuration_file, exposed_secrets, load_settings
    from pipeline.telemetry import configure_logging

    settings = load_settings(config, os.environ, sets or ())
    bound = {} if worker is None else {"worker": worker}
    configure_logging(settings.telemetry.log_level, settings.telemetry.log_format, bound=bound)
    file = configuration_file(config)
    if file is not None and (exposed := exposed_secrets(file)):
        structlog.get_logger(__name__).warning(
            "config.readable_secrets",
            file=str(file),
            settings=exposed,
            what="every user of this machine can read them: chmod 600, or write ${NAME} or file:PATH",
        )
    return settings


def print_json(value: Any) -> None:
    """Print a result for programs on stdout; a text in it cannot steer a terminal."""
    from pipeline.telemetry import printable

    lines = json.dumps(value, ensure_ascii=False, indent=2).split("\n")
    sys.stdout.write("".join(printable(line) + "\n" for line in lines))


def open_standard_streams() -> None:
    """Open /dev/null for each standard stream that the process was started without.

    Else the next file or connection would get its number, and what a library prints would be written into that.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
