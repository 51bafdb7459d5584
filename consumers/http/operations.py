"""The operations endpoints of every HTTP server: /healthz, /readyz and /metrics, with one JSON shape."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from consumers.http.named_route import NamedRoute
from consumers.http.problems import ErrorBoundaryMiddleware, http_problem

READY_TIMEOUT_S = 2.0

Problems = Callable[[], Mapping[str, str]]
"""Returns what is wrong now, by the part that is affected; empty when all is well."""
Exposition = Callable[[], bytes]
"""Returns the metrics as they are now, in the text format of Prometheus."""


def exposition(registry: CollectorRegistry) -> Exposition:
    """The metrics of a registry."""
    return partial(generate_latest, registry)


class Operations:
    """Answers probes and scrapes.

    `alive` must not block: it is called on the event loop, so that nothing delays liveness. `ready` may block; it runs
    on a thread of its own, once at a time, with a time limit. `metrics` may block, too. Liveness fails only when the
    process itself hangs: an outage of Kafka or Milvus must not get a worker killed that is doing the right thing.
    """

    def __init__(self, metrics: Exposition, *, alive: Problems, ready: Problems) -> None:
        self._exposition = metrics
        self.alive = alive
        self.ready = ready
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._check: asyncio.Future[Mapping[str, str]] | None = None

    def routes(self) -> list[BaseRoute]:
        """The routes, for the router of an application."""
        return [
            NamedRoute("/healthz", self._healthz),
            NamedRoute("/readyz", self._readyz),
            NamedRoute("/metrics", self._metrics),
        ]

    def close(self) -> None:
        """Stop: begin no further readiness check."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _healthz(self, _: Request) -> Response:
        return _report(self.alive())

    async def _readyz(self, _: Request) -> Response:
        if self._check is None or self._check.done():
            self._check = asyncio.get_running_loop().run_in_executor(self._thread, self.ready)
        try:
            problems = await asyncio.wait_for(asyncio.shield(self._check), READY_TIMEOUT_S)
        except TimeoutError:
            problems = {"check": f"no answer within {READY_TIMEOUT_S:.0f} s"}
        return _report(problems)

    async def _metrics(self, _: Request) -> Response:
        text = await asyncio.to_thread(self._exposition)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


def operations_app(operations: Operations) -> Starlette:
    """An application with these endpoints only."""
    app = Starlette(
        routes=operations.routes(),
        middleware=[Middleware(ErrorBoundaryMiddleware)],
        exception_handlers={HTTPException: routing_problem},
    )
    app.router.redirect_slashes = False  # the redirect would lead to whatever the Host header says
    return app


async def routing_problem(_: Request, error: Exception) -> Response:
    """The answer to an unknown path or a wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    return http_problem(error.status_code, str(error.detail)).response(error.headers)


def _report(problems: Mapping[str, str]) -> Response:
    body = {"status": "unavailable" if problems else "ok", "problems": dict(problems)}
    return Response(orjson.dumps(body), 503 if problems else 200, media_type="application/json")
