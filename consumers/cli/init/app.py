"""The command `init`: its options."""

from pathlib import Path
from typing import Annotated

import typer

from consumers.cli.common.signals import exit_on_sigterm


def init(
    path: Annotated[Path, typer.Argument(help="the file to write")] = Path("milvus-stream.yaml"),
    bootstrap: Annotated[str, typer.Option(metavar="HOST:PORT", help="the Kafka brokers")] = "localhost:9092",
    milvus: Annotated[
        str, typer.Option(metavar="URI", help="Milvus, or a path ending in .db for Milvus Lite")
    ] = "http://localhost:19530",
    topic: Annotated[str, typer.Option(help="the topic to read")] = "documents",
    collection: Annotated[str | None, typer.Option(help="[default: the topic's name]")] = None,
    create_topic: Annotated[bool, typer.Option("--create-topic", help="make the topic where it is missing")] = False,
    partitions: Annotated[int, typer.Option(min=1, max=10_000, help="Kafka partitions of --create-topic")] = 4,
) -> None:
    """Write a commented configuration file, which must not exist yet, and the JSON Schema by which editors check it."""
    exit_on_sigterm()
    from consumers.cli.init.run import run

    run(path, bootstrap, milvus, topic, collection=collection, partitions=partitions if create_topic else None)
