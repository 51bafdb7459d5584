"""The commands `dlq list`, `dlq show` and `dlq retry`."""

from typing import Annotated

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, load, print_json
from consumers.cli.common.signals import StopSignals

app = typer.Typer(help="The dead-letter topic.", no_args_is_help=True)


@app.command("list")
def list_(
    config: ConfigFile = None,
    sets: Sets = None,
    limit: Annotated[int, typer.Option(min=1, help="newest first")] = 20,
    reason: Annotated[str | None, typer.Option(help="only this reason, e.g. invalid_json")] = None,
    json_: Json = False,
) -> None:
    """List dead letters: where each record came from and why it was rejected."""
    settings = load(config, sets)
    from consumers.cli.dlq import reading

    dead_letters = reading.newest(settings, limit, reason)
    print_json([view.as_dict(with_value=False) for view in dead_letters]) if json_ else reading.show_list(dead_letters)


@app.command("show")
def show(
    position: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="as printed by `dlq list`")],
    config: ConfigFile = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Show one dead letter whole: reason, headers, key and value."""
    settings = load(config, sets)
    from consumers.cli.dlq import reading

    view = reading.one(settings, position)
    print_json(view.as_dict(with_value=True)) if json_ else reading.show_one(view)


@app.command("retry")
def retry(
    config: ConfigFile = None,
    sets: Sets = None,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", metavar="NAME=VALUE", help="reason, stage or topic; repeatable")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="retry at most so many, the oldest first")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="retry even records that a newer version of their document has superseded")
    ] = False,
    json_: Json = False,
) -> None:
    """Send rejected records back to their topics, each one once; exit 1 if a topic refused some."""
    stop = StopSignals()
    settings = load(config, sets)
    from consumers.cli.dlq import retry as command

    stop.end_in_order()
    report = command.run(settings, filters or (), limit, stop, dry_run=dry_run, force=force)
    print_json(report.as_dict()) if json_ else command.show(report)
    raise typer.Exit(command.exit_code(report))
