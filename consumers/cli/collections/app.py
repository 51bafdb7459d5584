"""The commands `collections list`, `collections info` and `collections drop`."""

from typing import Annotated

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, load, print_json

app = typer.Typer(help="The collections in Milvus.", no_args_is_help=True)


@app.command("list")
def list_(config: ConfigFile = None, sets: Sets = None, json_: Json = False) -> None:
    """List the collections made by milvus-stream, with rows and model."""
    settings = load(config, sets)
    from consumers.cli.collections import listing

    rows = listing.list_all(settings)
    print_json(rows) if json_ else listing.show_list(rows)


@app.command("info")
def info(
    name: Annotated[str | None, typer.Argument(help="[default: milvus.collection]")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Show one collection: fields, index and its progress, model, rows by Milvus partition."""
    settings = load(config, sets)
    from consumers.cli.collections import listing

    details = listing.info(settings, name or settings.milvus.collection)
    print_json(details) if json_ else listing.show_info(details)


@app.command("drop")
def drop(
    name: Annotated[str, typer.Argument(help="the collection; its ledger goes with it")],
    config: ConfigFile = None,
    sets: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Remove a collection with all its rows."""
    settings = load(config, sets)
    from consumers.cli.collections import dropping

    dropping.drop(settings, name, dry_run=dry_run, yes=yes)
