"""`milvus-stream search`: one search without a server, answered as the query worker answers."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumers.cli import output as tables
from consumers.config.settings import Settings
from consumers.wiring import common as wiring
from pipeline.errors import UsageError
from pipeline.query import DirectEmbedder, InvalidRequest, answer_json, parse_request


def search(settings: Settings, body: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one request body of POST /v1/search. Raises UsageError, Unavailable, Mismatch."""
    try:
        # The service checks it again; here before a model is loaded.
        parse_request(body, settings.query.max_limit)
    except InvalidRequest as error:
        raise UsageError(f"search {error}") from None
    with wiring.milvus(settings) as api, wiring.embedder(settings) as model:
        searcher = wiring.searcher(settings, api, model)
        embedder = DirectEmbedder(model.embed_queries)
        with closing(wiring.search_service(settings, searcher, embedder, CollectorRegistry())) as service:
            return answer_json(asyncio.run(service.answer(body)))


def request_body(
    text: str, *, limit: int, last: str | None, from_: str | None, to: str | None, where: Sequence[str]
) -> dict[str, Any]:
    """The options of the command as the body of a request."""
    body: dict[str, Any] = {"query": text, "limit": limit}
    if last or from_ or to:
        times = {"last": last, "from": from_, "to": to}
        body["time"] = {name: value for name, value in times.items() if value}
    if where:
        body["filter"] = {"type": "and", "filters": [_condition(condition) for condition in where]}
    return body


def show(result: Mapping[str, Any], console: Console, title: str = "") -> None:
    """Print one query's results as a table; what documents hold is printed as it is, without a meaning."""
    # Cells and title are Text: in a plain string rich would carry out what a document writes in square brackets.
    table = Table(
        title=Text(tables.printable(title)) if title else None,
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        expand=True,
    )
    for column, width in (("score", 5), ("document", 24), ("age", 7), ("partition", 11)):
        table.add_column(column, no_wrap=True, overflow="ellipsis", width=width)
    table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    now = datetime.now(UTC)
    for hit in result["results"]:
        hours = (now - datetime.fromisoformat(hit["event_time"])).total_seconds() / 3600
        age = f"{hours / 24:.1f} d" if abs(hours) >= 48 else f"{hours:.1f} h"
        row = (f"{hit['score']:.3f}", hit["doc_id"], age, hit["partition"] or "-", hit["text"])
        table.add_row(*(Text(tables.printable(cell)) for cell in row))
    searched = result["searched"]
    table.caption = (
        f"{result['timing_ms']['search'] + result['timing_ms']['embed']:.0f} ms, "
        f"{len(searched['partitions'])} Milvus partitions searched, {len(searched['skipped'])} skipped"
    )
    table.caption_justify = "left"
    console.print(table)
    for warning in result["warnings"]:
        tables.stderr().print(tables.printable(f"warning: {warning}"))


def _condition(condition: str) -> dict[str, Any]:
    """`key=value`: numbers, true and false are taken as such, everything else (also "5" in quotes) as text."""
    key, equals, value = condition.partition("=")
    if not equals or not key:
        raise UsageError(f"--where {condition!r}: write --where key=value, e.g. --where lang=en")
    try:
        typed = json.loads(value)
    except ValueError:
        typed = value
    if not isinstance(typed, str | int | float | bool):
        typed = value
    return {"type": "eq", "key": key, "value": typed}
