"""The run of `milvus-stream search`: the request is answered here or by a query worker, once or at an interval."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from consumers.cli.common.options import print_json
from consumers.cli.common.output import stdout
from consumers.cli.common.results import show_answer
from consumers.cli.common.signals import StopSignals
from consumers.cli.search.watch import JsonLines, Lines, Screen, parse_interval, watch
from consumers.config import Settings
from pipeline.errors import UsageError


def run(settings: Settings, body: Mapping[str, Any], *, url: str | None, every: str | None, json_: bool) -> None:
    """Answer one request body of POST /v1/search and print the answer.

    `url`: of the query worker to ask; None: Milvus is searched from here. `every`: the interval at which it is
    repeated, until SIGINT or SIGTERM; None: once. Raises UsageError, Unavailable, Mismatch.
    """
    if not json_ and "cursor" not in body:
        body = {**body, "highlights": True}
    if every is not None:
        _repeat(settings, body, url, every, json_=json_)
        return
    with _searches(settings, body, url) as ask:
        answer = ask()
    print_json(answer) if json_ else show_answer(answer, stdout())


def _repeat(settings: Settings, body: Mapping[str, Any], url: str | None, every: str, *, json_: bool) -> None:
    interval = parse_interval(every)
    if body.get("explain"):
        raise UsageError("--explain is for one search: leave out --watch")
    stop = StopSignals()
    console = stdout()
    view = JsonLines() if json_ else Screen(console, interval) if console.is_terminal else Lines(console)
    with _searches(settings, body, url) as ask:
        watch(ask, view, interval, stop.wait, began=stop.end_in_order)


@contextmanager
def _searches(settings: Settings, body: Mapping[str, Any], url: str | None) -> Iterator[Callable[[], dict[str, Any]]]:
    """A function that answers the request. Imported is only what it needs: Milvus's client, or that of HTTP."""
    if url is None:
        from consumers.cli.search.local import local_search

        with local_search(settings, body) as ask:
            yield ask
        return
    from consumers.cli.common.remote import query_worker

    yield partial(query_worker(settings, url).search, body)
