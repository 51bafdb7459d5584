"""`milvus-stream local`: Apache Kafka and Milvus on this machine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Apache Kafka and Milvus on this machine.", no_args_is_help=True)


@app.command("up")
def up(
    milvus: Annotated[Literal["lite", "standalone"], typer.Option(help="Milvus Lite, or a full server")] = "lite",
    directory: Annotated[Path | None, typer.Option("--dir", help="data folder [default: a temporary one]")] = None,
    kafka_port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: a free one]")] = None,
    milvus_port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: a free one]")] = None,
) -> None:
    """Run Apache Kafka and Milvus on loopback until SIGTERM; prints their addresses as one JSON line."""
    from consumers.local import run_local

    run_local(milvus, directory, kafka_port, milvus_port)
