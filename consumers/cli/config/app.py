"""`milvus-stream config`: the configuration itself."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from consumers.cli.common.options import FOUND_PROBLEMS, ConfigFile, Json, Sets, load, print_json

app = typer.Typer(help="Show and check the configuration.", no_args_is_help=True)


@app.command("show")
def show(config: ConfigFile = None, sets: Sets = None, json_: Json = False) -> None:
    """Print the configuration in force (file, environment, --set and defaults together), secrets masked."""
    import yaml

    from consumers.config import masked_values

    values = masked_values(load(config, sets))
    print_json(values) if json_ else sys.stdout.write(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


@app.command("lint")
def lint(config: ConfigFile = None, sets: Sets = None) -> None:
    """Check the configuration without connecting to anything."""
    settings = load(config, sets)
    from consumers.wiring.validation import check_settings

    check_settings(settings)
    sys.stderr.write("the configuration is valid\n")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    from consumers.config import json_schema

    print_json(json_schema())


@app.command("test")
def try_records(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="values of records: a line each in *.jsonl, else the whole file; - is standard input"
        ),
    ] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    topic: Annotated[str | None, typer.Option(help="read the newest records of this topic instead of a file")] = None,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="with --topic: how many")] = 20,
    key: Annotated[str | None, typer.Option(help="with FILE: the key of every record")] = None,
    json_: Annotated[bool, typer.Option("--json", help="one JSON object a record")] = False,
) -> None:
    """Show what a worker would make of records: operation, id, Milvus partition, chunks, or why it rejects them.

    Nothing is stored, and no group is joined. Exit 5 where a record is rejected, so that a mapping can be tested.
    """
    settings = load(config, sets)
    from consumers.cli.config import trial
    from pipeline.errors import UsageError

    if (file is None) == (topic is None):
        raise UsageError("say where the records are: FILE, or --topic")
    if topic is not None:
        records = trial.records_of_topic(settings, topic, last)
    else:
        assert file is not None  # noqa: S101 - checked above
        records = trial.records_of_file(file, settings.kafka.topics[0], key)
    if not trial.run(settings, records, json_=json_):
        raise typer.Exit(FOUND_PROBLEMS)
