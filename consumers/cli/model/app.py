"""The commands of `milvus-stream model`."""

from typing import Annotated

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, load, print_json
from consumers.cli.common.signals import exit_on_sigterm

app = typer.Typer(
    help="Models prepared for OpenVINO: what a worker on a CPU does at its first start can be done before.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def prepare(
    config: ConfigFile = None,
    sets: Sets = None,
    model: Annotated[str | None, typer.Option(help="folder or hub id [default: embedding.model]")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="int8 needs a preparation of its own [default: embedding.dtype]")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="FILE", help="texts for int8, one a line [default: embedding.calibration]")
    ] = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="the model of query.rerank.model instead")] = False,
    json_: Json = False,
) -> None:
    """Convert a model into embedding.cache_folder, e.g. when an image is built; done already: nothing happens."""
    exit_on_sigterm()
    given = {"model": model, "dtype": dtype, "calibration": calibration}
    overrides = [f"embedding.{name}={value}" for name, value in given.items() if value is not None]
    settings = load(config, [*(sets or ()), *overrides])
    from consumers.cli.model import prepared as command

    result = command.prepare_reranker(settings) if rerank else command.prepare(settings)
    print_json(result) if json_ else command.show_prepared(result)


@app.command("list")
def list_(config: ConfigFile = None, sets: Sets = None, json_: Json = False) -> None:
    """The prepared models in embedding.cache_folder."""
    settings = load(config, sets)
    from consumers.cli.model import prepared as command

    result = command.listed(settings)
    print_json(result) if json_ else command.show_list(result)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="a name or id of `model list`")],
    config: ConfigFile = None,
    sets: Sets = None,
    json_: Json = False,
) -> None:
    """Delete a prepared model from embedding.cache_folder. It is prepared again by the next worker that needs it."""
    settings = load(config, sets)
    from consumers.cli.model import prepared as command

    result = command.remove(settings, name)
    print_json(result) if json_ else command.show_removed(result)
