"""The commands of `milvus-stream`: options, exit codes and errors; the work is done by the modules they import.

Data goes to stdout, progress and logs to stderr. Exit codes: 0 done (also after a graceful SIGTERM), 1 failed, 2 usage
or configuration, 3 a dependency cannot be reached, 4 schema, model or version mismatch, 5 a check found problems, 130
and 143 ended by SIGINT or SIGTERM before the work began.
"""

import importlib.metadata
import os
import signal
import sys
from typing import Annotated

import typer

from consumers.cli import keys as keys_group
from consumers.cli import local as local_group
from consumers.cli import topics as topics_group
from consumers.cli.collections.app import app as collections_app
from consumers.cli.common.options import (
    ConfigFile,
    Json,
    Sets,
    load,
    open_standard_streams,
    print_json,
)
from consumers.cli.common.signals import StopSignals, exit_on_sigterm
from consumers.cli.config import app as config_group
from consumers.cli.dlq.app import app as dlq_app
from consumers.cli.documents.app import app as documents_app
from consumers.cli.documents.app import show as show_document
from consumers.cli.embed.app import bench_app, embed
from consumers.cli.init.app import init
from consumers.cli.model.app import app as model_app
from consumers.cli.publish.app import publish
from consumers.cli.search.app import search
from pipeline.errors import MilvusStreamError

app = typer.Typer(
    name="milvus-stream",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for name, group in (
    ("config", config_group.app),
    ("local", local_group.app),
    ("topics", topics_group.app),
    ("dlq", dlq_app),
    ("collections", collections_app),
    ("documents", documents_app),
    ("keys", keys_group.app),
    ("model", model_app),
    ("bench", bench_app),
):
    app.add_typer(group, name=name)
for name, group in (
    ("collection", collections_app),
    ("document", documents_app),
    ("key", keys_group.app),
    ("models", model_app),
    ("topic", topics_group.app),
):
    app.add_typer(group, name=name, hidden=True)  # what somebody types who has the number wrong


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"milvus-stream {importlib.metadata.version('milvus-stream')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Kafka topics, searchable by meaning in Milvus."""


def main() -> None:
    """Run the command line; every error raised on purpose becomes one line on stderr and its exit code."""
    open_standard_streams()
    try:
        app(standalone_mode=True)
    except MilvusStreamError as error:
        from pipeline.telemetry import printable

        # The message may quote a record; the end of a server's log in it has several lines.
        message = printable(str(error), keep="\n\t")
        sys.stderr.write(f"milvus-stream: {message}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would print a traceback when flushing stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


app.command()(init)

# --- workers -----------------------------------------------------------------------------------------------------


@app.command()
def ingest(
    config: ConfigFile = None,
    sets: Sets = None,
    until_caught_up: Annotated[
        bool, typer.Option(help="end when everything present at the start is durable and committed")
    ] = False,
    max_records: Annotated[int | None, typer.Option(min=1, help="end after this many records")] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="so many worker processes under a supervisor; auto: one for each GPU"),
    ] = None,
    adopt: Annotated[
        bool,
        typer.Option(
            "--adopt", help="let this group fill a collection that another group fills, or go on in another collection"
        ),
    ] = False,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="go on without records that are lost; the log says which")
    ] = False,
    supervised: Annotated[str | None, typer.Option(hidden=True)] = None,
    json_: Json = False,
) -> None:
    """Run an ingest worker: Kafka -> chunks -> embeddings -> Milvus. Start more of them for more throughput."""
    if workers is not None:
        from consumers.cli import ingest_workers

        ingest_workers.run(
            config,
            sets,
            workers,
            until_caught_up=until_caught_up,
            max_records=max_records,
            adopt=adopt,
            accept_gap=accept_gap,
            json_=json_,
        )
    place = None
    if supervised is not None:
        from consumers.supervisor.supervised import Supervised

        place = Supervised.parse(supervised)
        place.end_with_supervisor()
    # A service manager may signal every process of a service; the supervisor decides when a worker ends at once.
    stop = StopSignals(repeated_ends=place is None)
    settings = load(config, sets, worker=None if place is None else place.name)
    from consumers.cli import ingest as command

    summary = command.run(
        settings,
        stop,
        supervised=place,
        until_caught_up=until_caught_up,
        max_records=max_records,
        adopt=adopt,
        accept_gap=accept_gap,
    )
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
    from consumers.cli import serve as command

    command.run(settings)


@app.command()
def mcp(config: ConfigFile = None, sets: Sets = None) -> None:
    """Serve the read-only tools search and describe to a language model over stdin and stdout (MCP)."""
    exit_on_sigterm()
    settings = load(config, sets)
    from consumers.cli import mcp as command

    command.run(settings)


app.command()(search)
app.command("get")(show_document)
app.command()(embed)
app.command()(publish)


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
    stop = StopSignals()
    settings = load(config, sets)
    from consumers.config import load_settings

    elsewhere = [*(sets or ()), f"milvus.collection={into}"]
    target = settings if into is None else load_settings(config, os.environ, elsewhere)
    from consumers.cli import replay as command

    if dry_run:
        plan = command.plan_only(settings, target, from_, to, rate)
        print_json(plan.as_dict()) if json_ else command.show_plan(plan)
        return
    summary = command.run(settings, target, from_, to, rate, stop)
    print_json(summary.as_dict()) if json_ else sys.stdout.write(summary.line() + "\n")
    raise typer.Exit(int(must_finish and not summary.finished))


@app.command()
def rekey(
    to: Annotated[str, typer.Option("--to", metavar="TOPIC", help="the topic that ingest reads instead")],
    config: ConfigFile = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Forward the topics' records to another topic, keyed by document id, exactly once; runs until SIGTERM.

    For topics whose records of one document are in several Kafka partitions. Let ingest read the new topic.
    """
    stop = StopSignals()
    settings = load(config, sets)
    from consumers.cli import rekey as command

    summary = command.run(settings, to, stop)
    if json_:
        print_json(summary.as_dict())


# --- inspection ----------------------------------------------------------------------------------------------------


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
        bool, typer.Option("--repair", help="write again what is wrong; needs the ingest workers stopped")
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
    """Compare what is stored with the records in the topics; exit 5 if anything is wrong. Workers may be running."""
    exit_on_sigterm()
    settings = load(config, sets)
    from consumers.cli import audit as command

    report = command.run(settings, from_, to, repair=repair, limit=limit)
    print_json(report.as_dict()) if json_ else command.show(report)
    raise typer.Exit(command.exit_code(report))


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
