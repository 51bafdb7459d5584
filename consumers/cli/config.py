"""`milvus-stream config`: the configuration itself."""

import sys

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, load, print_json

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
