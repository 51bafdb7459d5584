"""The commands of `milvus-stream`: they translate arguments and errors, and nothing more.

Data goes to stdout, progress and logs to stderr. Exit codes: 0 done (also after a graceful SIGTERM), 1 failed, 2 usage
or configuration, 3 a dependency cannot be reached, 4 schema, model or version mismatch, 5 a check found problems.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from consumers.cli import embed_app as cli_embed
from consumers.cli.options import (
    ConfigFile,
    Json,
    Sets,
    exit_on_sigterm,
    load,
    open_standard_streams,
    print_json,
    stop_on_signals,
)
from consumers.config.settings import Settings, environment, load_settings, shown
from pipeline.errors import MilvusStreamError

app = typer.Typer(
    name="milvus-stream",
    help="Kafka topics, searchable by meaning in Milvus.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at and check the configuration.", no_args_is_help=True)
local_app = typer.Typer(help="Apache Kafka and Milvus on this machine.", no_args_is_help=True)
dlq_app = typer.Typer(help="The dead-letter topic.", no_args_is_help=True)
collections_app = typer.Typer(help="The collections in Milvus.", no_args_is_help=True)
for name, group in (
    ("config", config_app),
    ("local", local_app),
    ("dlq", dlq_app),
    ("collections", collections_app),
    ("bench", cli_embed.bench_app),
):
    app.add_typer(group, name=name)


def main() -> None:
    """Run the command line; every error raised on purpose becomes one line on stderr and its exit code."""
    open_standard_streams()
    try:
        app(standalone_mode=True)
    except MilvusStreamError as error:
        from consumers.cli.output import escaped  # the message may quote a record

        sys.stderr.write(f"milvus-stream: {escaped(str(error))}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would print a traceback when flushing stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


# --- workers -----------------------------------------------------------------------------------------------------


@app.command()
def ingest(
    config: ConfigFile = None,
    sets: Sets = None,
    until_caught_up: Annotated[
        bool, typer.Option(help="end when everything present at the start is durable and committed")
    ] = False,
    max_records: Annotated[int | None, typer.Option(min=1, help="end after this many records")] = None,
    json_: Json = False,
) -> None:
    """Run an ingest worker: Kafka -> chunks -> embeddings -> Milvus. Start more of them for more throughput."""
    stop = stop_on_signals()
    settings = load(config, sets)
    from consumers.cli import ingest as command

    summary = command.run(settings, stop, until_caught_up=until_caught_up, max_records=max_records)
    if json_:
        print_json(summary.as_dict())


@app.command()
def serve(
    config: ConfigFile = None,
    sets: Sets = None,
    host: Annotated[str | None, typer.Option(help="[default: query.host]")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="[default: query.port]")] = None,
) -> None:
    """Run a query worker: searches over HTTP, POST /v1/search."""
    overrides = [f"query.host={host}"] * (host is not None) + [f"query.port={port}"] * (port is not None)
    settings = load(config, [*(sets or ()), *overrides])
    from consumers.wiring import common as wiring

    with wiring.milvus(settings) as api, wiring.embedder(settings) as model:
        wiring.serve(settings, api, model)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="what to look for")],
    config: ConfigFile = None,
    sets: Sets = None,
    limit: Annotated[int, typer.Option(min=1)] = 10,
    last: Annotated[str | None, typer.Option(metavar="24h", help="only documents of this long ago until now")] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="TIME", help="RFC 3339, inclusive")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="TIME", help="RFC 3339, exclusive")] = None,
    where: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="metadata filter; repeatable")] = None,
    json_: Json = False,
) -> None:
    """Search once, without a server."""
    settings = load(config, sets)
    from consumers.cli import search as command

    body = command.request_body(text, limit=limit, last=last, from_=from_, to=to, where=where or [])
    result = command.search(settings, body)
    if json_:
        print_json(result)
    else:
        from consumers.cli import output as tables

        command.show(result, tables.stdout())


app.command()(cli_embed.embed)


@app.command()
def replay(
    from_: Annotated[str, typer.Option("--from", metavar="TIME", help="Kafka timestamp, RFC 3339, inclusive")],
    to: Annotated[str, typer.Option("--to", metavar="TIME", help="Kafka timestamp, RFC 3339, exclusive")],
    config: ConfigFile = None,
    sets: Sets = None,
    into: Annotated[
        str | None, typer.Option(metavar="COLLECTION", help="write here instead; created if missing")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show the plan: records, bytes, chunks")] = False,
    rate: Annotated[float | None, typer.Option(min=0.1, metavar="N", help="read N records a second at most")] = None,
    must_finish: Annotated[
        bool, typer.Option("--must-finish", help="exit 1 when stopped before the end, e.g. in a Kubernetes Job")
    ] = False,
    json_: Json = False,
) -> None:
    """Read a bounded range of the topics again. The live group is not touched; started again, it resumes."""
    stop = stop_on_signals()
    settings = load(config, sets)
    elsewhere = [*(sets or ()), f"milvus.collection={into}"]
    target = settings if into is None else load_settings(config, environment(), elsewhere)
    from consumers.cli import replay as command

    if dry_run:
        plan = command.plan_only(settings, target, from_, to, rate)
        print_json(plan.as_dict()) if json_ else command.show_plan(plan)
        return
    summary = command.run(settings, target, from_, to, rate, stop)
    print_json(summary.as_dict()) if json_ else sys.stdout.write(summary.line() + "\n")
    raise typer.Exit(int(must_finish and not summary.finished))


# --- a look inside -------------------------------------------------------------------------------------------------


@app.command()
def status(config: ConfigFile = None, sets: Sets = None, json_: Json = False) -> None:
    """Lag by Kafka partition, rows, Milvus partitions, dead letters, model; exit 3 if Kafka or Milvus is away."""
    settings = load(config, sets)
    from consumers.cli import status as command

    report = command.collect(settings)
    print_json(report) if json_ else command.show(report)
    raise typer.Exit(command.exit_code(report))


@app.command()
def doctor(config: ConfigFile = None, sets: Sets = None, json_: Json = False) -> None:
    """Check everything a worker needs; exit 5 if something is wrong, 3 if Kafka or Milvus cannot be reached."""
    settings = load(config, sets)
    from consumers.cli.doctor import run as command

    findings = command.examine(settings)
    print_json([finding.as_dict() for finding in findings]) if json_ else command.show(findings)
    raise typer.Exit(command.exit_code(findings))


@app.command()
def audit(
    config: ConfigFile = None,
    sets: Sets = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="write what is wrong anew; needs the ingest workers stopped")
    ] = False,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Kafka timestamp, RFC 3339, inclusive")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="only documents with no record at or after it")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="findings shown; all are counted")] = 1000,
    json_: Json = False,
) -> None:
    """Compare what is stored with what the topics ask for; exit 5 if anything is wrong. Workers may run meanwhile."""
    exit_on_sigterm()
    settings = load(config, sets)
    from consumers.cli import audit as command

    report = command.run(settings, from_, to, repair=repair, limit=limit)
    print_json(report.as_dict()) if json_ else command.show(report)
    raise typer.Exit(command.exit_code(report))


@dlq_app.command("list")
def dlq_list(
    config: ConfigFile = None,
    sets: Sets = None,
    limit: Annotated[int, typer.Option(min=1, help="newest first")] = 20,
    reason: Annotated[str | None, typer.Option(help="only this reason, e.g. invalid_json")] = None,
    json_: Json = False,
) -> None:
    """List dead letters: where each record came from and why it was rejected."""
    settings = load(config, sets)
    from consumers.cli import dlq as command

    letters = command.newest(settings, limit, reason)
    print_json([letter.as_dict(with_value=False) for letter in letters]) if json_ else command.show_list(letters)


@dlq_app.command("show")
def dlq_show(
    position: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="as printed by `dlq list`")],
    config: ConfigFile = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Show one dead letter whole: reason, headers, key and value."""
    settings = load(config, sets)
    from consumers.cli import dlq as command

    letter = command.one(settings, position)
    print_json(letter.as_dict(with_value=True)) if json_ else command.show_one(letter)


@dlq_app.command("retry")
def dlq_retry(
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
    stop = stop_on_signals()
    settings = load(config, sets)
    from consumers.cli import dlq_retry as command

    report = command.run(settings, filters or (), limit, stop, dry_run=dry_run, force=force)
    print_json(report.as_dict()) if json_ else command.show(report)
    raise typer.Exit(command.exit_code(report))


@collections_app.command("list")
def collections_list(config: ConfigFile = None, sets: Sets = None, json_: Json = False) -> None:
    """List the collections made by milvus-stream, with rows and model."""
    settings = load(config, sets)
    from consumers.cli import collections as command

    rows = command.list_all(settings)
    print_json(rows) if json_ else command.show_list(rows)


@collections_app.command("info")
def collections_info(
    name: Annotated[str | None, typer.Argument(help="[default: milvus.collection]")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Show one collection: fields, index and its progress, model, rows by Milvus partition."""
    settings = load(config, sets)
    from consumers.cli import collections as command

    info = command.info(settings, name or settings.milvus.collection)
    print_json(info) if json_ else command.show_info(info)


@collections_app.command("drop")
def collections_drop(
    name: Annotated[str, typer.Argument(help="the collection; its ledger goes with it")],
    config: ConfigFile = None,
    sets: Sets = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Remove a collection with all its rows."""
    settings = load(config, sets)
    from consumers.cli import collections as command

    command.drop(settings, name, dry_run=dry_run, yes=yes)


# --- configuration -------------------------------------------------------------------------------------------------


@config_app.command("show")
def config_show(config: ConfigFile = None, sets: Sets = None, json_: Json = False) -> None:
    """Print the configuration in force (file, environment, --set and defaults together), secrets masked."""
    import yaml

    values = shown(load(config, sets))
    print_json(values) if json_ else sys.stdout.write(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


@config_app.command("lint")
def config_lint(config: ConfigFile = None, sets: Sets = None) -> None:
    """Check the configuration without connecting to anything."""
    settings = load(config, sets)
    from consumers.wiring import common as wiring

    wiring.check(settings)
    sys.stderr.write("the configuration is valid\n")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration file."""
    print_json(Settings.model_json_schema())


# --- on this machine -----------------------------------------------------------------------------------------------


@local_app.command("up")
def local_up(
    milvus: Annotated[Literal["lite", "standalone"], typer.Option(help="Milvus Lite, or a full server")] = "lite",
    directory: Annotated[Path | None, typer.Option("--dir", help="data folder [default: a temporary one]")] = None,
    kafka_port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: a free one]")] = None,
    milvus_port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: a free one]")] = None,
) -> None:
    """Run Apache Kafka and Milvus on loopback until SIGTERM; prints their addresses as one JSON line."""
    from consumers.local.run import run_local

    run_local(milvus, directory, kafka_port, milvus_port)


@app.command()
def demo(
    documents: Annotated[int, typer.Option(min=10, help="how many to publish")] = 1500,
    keep: Annotated[bool, typer.Option("--keep", help="leave everything running")] = False,
) -> None:
    """The whole thing on this machine: Kafka, Milvus Lite, documents, an ingest worker, a query worker, searches."""
    from consumers.cli.demo.run import run_demo

    # So that SIGTERM, too, stops the servers and workers in order and removes the folder.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_demo(documents, keep=keep)


if __name__ == "__main__":
    main()
