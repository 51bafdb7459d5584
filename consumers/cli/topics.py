"""`milvus-stream topics`: make and list the topics of the broker."""

from typing import Annotated

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, load, print_json
from consumers.cli.common.signals import exit_on_sigterm

app = typer.Typer(help="The topics of the broker.", no_args_is_help=True)


@app.command("create")
def create(
    names: Annotated[list[str] | None, typer.Argument(metavar="TOPIC", help="[default: kafka.topics]")] = None,
    partitions: Annotated[int, typer.Option(min=1, max=10_000, help="so many workers can share a topic")] = 4,
    config: ConfigFile = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Make topics with the broker's replication; one that exists is left as it is."""
    exit_on_sigterm()
    settings = load(config, sets)
    from consumers.cli.common import topics

    made = [topics.create(settings, name, partitions) for name in names or settings.kafka.topics]
    if json_:
        print_json(made)


@app.command("list")
def list_(config: ConfigFile = None, sets: Sets = None, json_: Json = False) -> None:
    """List the topics with their Kafka partitions and records, and which of them this configuration reads."""
    exit_on_sigterm()
    settings = load(config, sets)
    from consumers.cli.common import topics

    found = topics.listed(settings)
    print_json(found) if json_ else topics.show(found)
