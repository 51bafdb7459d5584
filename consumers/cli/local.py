"""`milvus-stream local`: Apache Kafka and Milvus on this machine."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Apache Kafka and Milvus on this machine.", no_args_is_help=True)

_KAFKA_PORT, _MILVUS_PORT = 9092, 19530
_PARTITIONS = 4


@app.command("up")
def up(
    milvus: Annotated[Literal["lite", "standalone"], typer.Option(help="Milvus Lite, or a full server")] = "lite",
    directory: Annotated[Path | None, typer.Option("--dir", help="data folder [default: a temporary one]")] = None,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", help="make this topic where it is missing; repeatable")
    ] = None,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="any free port that is not given")] = False,
    kafka_port: Annotated[int | None, typer.Option(min=1, max=65535, help=f"[default: {_KAFKA_PORT}]")] = None,
    milvus_port: Annotated[int | None, typer.Option(min=1, max=65535, help=f"[default: {_MILVUS_PORT}]")] = None,
) -> None:
    """Run Apache Kafka and Milvus on loopback until SIGTERM; prints their addresses as one JSON line."""
    from consumers.local import run_local

    def prepare(kafka: str, milvus: str) -> None:
        if topics:
            _make_topics(kafka, milvus, topics)
        sys.stderr.write(_instructions(kafka, milvus, (topics or ["documents"])[0], directory))

    run_local(
        milvus,
        directory,
        kafka_port or (None if free_ports else _KAFKA_PORT),
        milvus_port or (None if free_ports else _MILVUS_PORT),
        prepare=prepare,
    )


def _make_topics(kafka: str, milvus: str, topics: list[str]) -> None:
    from consumers.cli.common.topics import make_missing
    from consumers.config import load_settings

    settings = load_settings(None, {}, [f"kafka.bootstrap_servers={kafka}", f"milvus.uri={milvus}"])
    for topic in topics:
        make_missing(settings, topic, _PARTITIONS)


def _instructions(kafka: str, milvus: str, topic: str, directory: Path | None) -> str:
    """What to do next, in a terminal of its own."""
    kept = "they are removed then; --dir FOLDER keeps them" if directory is None else f"they stay in {directory}"
    return f"""\
Both run until Ctrl-C. Topics and collections: {kept}.

milvus-stream.yaml for them (`milvus-stream init --bootstrap {kafka} --milvus {milvus} --topic {topic}` writes it):

kafka:
  bootstrap_servers: {kafka}
  topics: [{topic}]
milvus:
  uri: {milvus}
  collection: documents

"""
