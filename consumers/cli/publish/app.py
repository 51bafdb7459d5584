"""The command `publish`: its options and its exit code."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from consumers.cli.common.options import FOUND_PROBLEMS, ConfigFile, Json, Sets, load, print_json
from consumers.cli.common.signals import exit_on_sigterm


def publish(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH|-", help="a file .jsonl, .ndjson or .csv, a folder of .txt and .md, or stdin"),
    ],
    topic: Annotated[str | None, typer.Option(metavar="T", help="[default: kafka.topics, where it is one]")] = None,
    id_from: Annotated[
        str | None, typer.Option("--id-from", metavar="FIELD", help="the rows' field that is the id")
    ] = None,
    time_from: Annotated[
        str | None, typer.Option("--time-from", metavar="FIELD", help="the rows' field that is the event time")
    ] = None,
    text_from: Annotated[
        str | None, typer.Option("--text-from", metavar="FIELD", help="the rows' field that is the text")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, metavar="N", help="send N records a second at most")] = None,
    all_: Annotated[bool, typer.Option("--all", help="send also what the last run published unchanged")] = False,
    delete_missing: Annotated[
        bool, typer.Option("--delete-missing", help="delete documents of former runs that are not in PATH any more")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check the rows and count; send nothing")] = False,
    config: ConfigFile = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Publish rows or texts as records, keyed by document id; exit 5 if rows were rejected, the others are sent.

    Every row is decoded before anything is sent. What the last run published is remembered beside PATH and not sent
    again. In a folder the id is the relative path and the event time is when the file was changed.
    """
    exit_on_sigterm()
    settings = load(config, sets)
    from consumers.cli.publish import run as command

    options = command.Options(
        path, topic, id_from, time_from, text_from, rate, all=all_, delete_missing=delete_missing, dry_run=dry_run
    )
    report = command.run(settings, options)
    if json_:
        print_json(report.as_dict())
    else:
        sys.stderr.write(report.line() + "\n")
    raise typer.Exit(FOUND_PROBLEMS if report.rejected else 0)
