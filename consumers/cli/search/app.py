"""The command `search`: its options."""

from typing import Annotated, Literal

import typer

from consumers.cli.common.options import ConfigFile, Json, Sets, Url, load

Vector = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="search with this vector, a JSON list of numbers, or several; -: from stdin"),
]
Mode = Annotated[
    Literal["dense", "keyword", "hybrid"] | None,
    typer.Option(help="by meaning, by words, or both [default: both where the collection has a keyword index]"),
]
Last = Annotated[str | None, typer.Option(metavar="24h", help="only documents of this long ago until now")]
Conditions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="metadata filter, also with != > >= < <= and ~= (a list contains), or KEY? (has it); repeatable",
    ),
]
Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", metavar="JSON", help="any filter of the search API; repeatable"),
]
MinScore = Annotated[float | None, typer.Option(metavar="N", help="leave out rows with a lower score")]
HalfLife = Annotated[
    str | None, typer.Option(metavar="12h", help="prefer newer documents: the age that costs half of 0.3")
]
Parameters = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE", help="parameter of the index, e.g. ef=128; repeatable")
]
Fusion = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=NUMBER", help="hybrid: the weights dense and keyword, id, or k; e.g. --fusion dense=1; repeatable"
    ),
]
Fields = Annotated[
    list[str] | None, typer.Option("--field", metavar="NAME", help="metadata that --json shows; repeatable [all]")
]
Facets = Annotated[
    list[str] | None, typer.Option("--facet", metavar="NAME", help="count the values of metadata; repeatable")
]
Chunks = Annotated[bool, typer.Option("--chunks", help="every chunk that matches, not the best one of each document")]
Rerank = Annotated[bool | None, typer.Option("--rerank/--no-rerank", help="order the best results by query.rerank")]
Strong = Annotated[
    bool, typer.Option("--strong", help="see everything that Milvus has acknowledged; some 0.3 s slower")
]
Cursor = Annotated[
    str | None, typer.Option(metavar="TEXT", help="with --url: the page that next_cursor of an answer leads to")
]
Records = Annotated[
    list[str] | None,
    typer.Option(metavar="TOPIC:PARTITION:OFFSET", help="wait until this record is processed; repeatable"),
]
Interval = Annotated[
    str | None,
    typer.Option(metavar="5s", help="repeat the search; off a terminal only results that are new or changed"),
]


def search(
    text: Annotated[str | None, typer.Argument(help="the query; not needed with --vector")] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    vector: Vector = None,
    mode: Mode = None,
    limit: Annotated[int, typer.Option(min=1)] = 10,
    last: Last = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="TIME", help="RFC 3339, inclusive")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="TIME", help="RFC 3339, exclusive")] = None,
    where: Conditions = None,
    filters: Filters = None,
    min_score: MinScore = None,
    recency: HalfLife = None,
    fusion: Fusion = None,
    param: Parameters = None,
    chunks: Chunks = False,
    group_size: Annotated[int, typer.Option(min=1, max=10, help="most chunks of a document")] = 1,
    count: Annotated[bool, typer.Option("--count", help="count the rows that filter and time range match")] = False,
    facets: Facets = None,
    fields: Fields = None,
    explain: Annotated[bool, typer.Option("--explain", help="print how the results were found")] = False,
    rerank: Rerank = None,
    wait_for: Records = None,
    strong: Strong = False,
    url: Url = None,
    cursor: Cursor = None,
    watch: Interval = None,
    json_: Json = False,
) -> None:
    """Search once, or with --watch repeatedly; without a server, or with --url by a running query worker."""
    settings = load(config, sets)
    from consumers.cli.search.request import page_body, request_body

    body = request_body(
        text,
        vector=vector,
        mode=mode,
        limit=limit,
        last=last,
        from_=from_,
        to=to,
        where=where or [],
        filters=filters or [],
        min_score=min_score,
        recency=recency,
        fusion=fusion or [],
        params=param or [],
        chunks=chunks,
        facets=facets or [],
        fields=fields or [],
        group_size=group_size,
        explain=explain,
        count=count,
        rerank=rerank,
        wait_for=wait_for or [],
        strong=strong,
    )
    if cursor is not None:
        body = page_body(cursor, body, url)
    from consumers.cli.search import run as command

    command.run(settings, body, url=url, every=watch, json_=json_)
