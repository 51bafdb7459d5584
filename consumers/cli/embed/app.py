"""The commands `embed` and `bench embed`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, load, print_json
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from consumers.config import Settings

bench_app = typer.Typer(help="Measure this machine.", no_args_is_help=True)


def embed(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="- takes each line of standard input")],
    config: ConfigFile = None,
    sets: Sets = None,
    query: Annotated[bool, typer.Option("--query", help="as queries, with the model's query prompt")] = False,
    json_: Annotated[bool, typer.Option("--json", help="whole vectors, one JSON object a line")] = False,
) -> None:
    """Print the vectors of texts: as documents, cut into chunks as for ingest, or as queries.

    A text without a vector (blank, or one that the model makes no numbers of) is named on stderr; exit 1 at the end.
    """
    settings = load(config, sets)
    from consumers.cli.embed import vectors

    failed = vectors.run(settings, vectors.expand(texts, sys.stdin), query=query, whole=json_)
    raise typer.Exit(int(failed > 0))


@bench_app.command("embed")
def bench_embed(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE.jsonl", help='with --quality: {"query": …, "text": …} a line', show_default=False),
    ] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    model: Annotated[str | None, typer.Option(help="[default: embedding.model]")] = None,
    device: Annotated[str | None, typer.Option(help="as embedding.device, which is the default")] = None,
    dtype: Annotated[str | None, typer.Option(help="as embedding.dtype, which is the default")] = None,
    quality: Annotated[bool, typer.Option("--quality", help="what each precision costs, not how fast it is")] = False,
    seconds: Annotated[float, typer.Option(min=3.0, max=3600.0, help="of measuring, after loading")] = 20.0,
    json_: Json = False,
) -> None:
    """Measure how fast this machine embeds: real texts of 5 to 10,000 tokens, cut into chunks as configured.

    The share of the peak is that of the matrix products which this machine reaches in the same precision with the
    same number of threads, measured in the same run. Nothing else should run on the machine.

    With --quality: the model in float32, in bfloat16 where this machine has it and in int8 where the extra is
    installed; how many of float32's first ten results each keeps, and how well it finds what FILE.jsonl pairs.
    Without a file the first lines of Python's documentation are to find the rest of their text.
    """
    if file is not None and not quality:
        raise UsageError(f"{file}: a file is read with --quality only")
    if quality and dtype is not None:
        raise UsageError("--quality compares all precisions: leave --dtype out")
    given = {"model": model, "device": device, "dtype": dtype}
    overrides = [f"embedding.{name}={value}" for name, value in given.items() if value is not None]
    settings = load(config, [*(sets or ()), *overrides])
    if quality:
        _bench_quality(settings, file, json_=json_)
        return
    from consumers.cli.embed import bench

    figures = bench.measure(settings, seconds)
    print_json(figures) if json_ else bench.show(figures)


def _bench_quality(settings: "Settings", file: Path | None, *, json_: bool) -> None:
    from consumers.cli.embed import pairs, quality

    figures = quality.measure(settings, pairs.documentation_pairs() if file is None else pairs.read_pairs(file))
    print_json(figures) if json_ else quality.show(figures)
