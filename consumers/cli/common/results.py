"""How `search` and `demo` print the results of a search. The content of documents is shown and never interpreted."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from consumers.cli.common.output import one_line, stderr
from pipeline.telemetry import printable

_INDENT = " " * 9
_SPACES = re.compile(r"\s+")


def show_results(result: Mapping[str, Any], console: Console, title: str = "") -> None:
    """Print two lines for each result: score, id, age and partition; and its passage with the query's terms in bold.

    A terminal cuts the passage at its width, and shows every id whole. Elsewhere nothing is cut.
    """
    if title:
        _print(console, Text(one_line(title), style="italic"))
    for hit in result["results"]:
        show_result(hit, console)
    searched, timing = result["searched"], result["timing_ms"]
    summary = (
        f"{timing['search'] + timing['embed']:.0f} ms, {searched['partitions']} Milvus partitions searched, "
        f"{searched['skipped']} skipped"
    )
    _print(console, Text(summary, style="dim"))
    for warning in result["warnings"]:
        stderr().print(one_line(f"warning: {warning}"))


def show_result(hit: Mapping[str, Any], console: Console) -> None:
    """Print the two lines of one result, as `show_results`."""
    hours = (datetime.now(UTC) - datetime.fromisoformat(hit["event_time"])).total_seconds() / 3600
    age = f"{hours / 24:.1f} d" if abs(hours) >= 48 else f"{hours:.1f} h"
    facts = f"{hit['score']:7.3f}", one_line(hit["doc_id"]), age, one_line(hit["partition"] or "-")
    _print(console, Text("  ".join(facts)))
    passage = _passage(hit)
    passage.pad_left(len(_INDENT))
    if console.is_terminal:
        passage.truncate(console.width, overflow="ellipsis")
    _print(console, passage)


def show_answer(answer: Mapping[str, Any], console: Console) -> None:
    """Print the answer of a search: the results of each of its queries, what they were counted and explained as."""
    for one in answer.get("answers", [answer]):
        show_results({**answer, "results": one["results"], "warnings": []}, console)
    show_total(answer, console)
    _show_facets(answer.get("facets"), console)
    if answer.get("explain") is not None:
        console.print(Text(json.dumps(answer["explain"], indent=2)))
    for warning in answer["warnings"]:
        stderr().print(one_line(f"warning: {warning}"))


def show_total(answer: Mapping[str, Any], console: Console) -> None:
    """Print how many rows match, where they were counted."""
    if answer.get("total") is not None:
        console.print(f"{answer['total']:,} rows match filter and time range", highlight=False)


def _show_facets(facets: Mapping[str, Any] | None, console: Console) -> None:
    """Print one line for each field: its most frequent values with their counts."""
    if facets is None:
        return
    sample = f" (of {facets['rows_read']:,} rows, a sample)" if facets["sampled"] else ""
    for field in facets["fields"]:
        values = [f"{json.dumps(one['value'], ensure_ascii=False)} {one['count']:,}" for one in field["values"]]
        more = [f"{field['other_values']:,} further values"] if field["other_values"] else []
        _print(console, Text(one_line(f"{field['name']}: {', '.join([*values, *more]) or 'no values'}{sample}")))


def _passage(hit: Mapping[str, Any]) -> Text:
    """The passage of a result on one line, its highlights in bold; the whole text where the search had none."""
    text = hit["text"]
    start, end = hit.get("passage") or (0, len(text))
    shown = Text()
    at = start
    for first, last in hit.get("highlights") or ():
        # Another program's answer may name any offsets: each character is shown once at most.
        if at <= first <= last <= end:
            shown.append(_safe(text[at:first]))
            shown.append(_safe(text[first:last]), style="bold")
            at = last
    shown.append(_safe(text[at:end]))
    # Spaces at the ends are cut here and not before: between two parts they are the spaces between words.
    shown = shown[len(shown.plain) - len(shown.plain.lstrip()) :]
    shown.rstrip()
    return shown


def _safe(part: str) -> str:
    return printable(_SPACES.sub(" ", part))


def _print(console: Console, line: Text) -> None:
    """One line, which no width cuts or wraps; nothing in it is markup."""
    console.print(line, soft_wrap=True, highlight=False)
