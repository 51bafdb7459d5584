"""`milvus-stream mcp`: the tools for language models over standard input and output."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from consumers.config import Settings
from consumers.wiring import connections, documents
from consumers.wiring.mcp import check_mcp_installed, mcp_tools
from consumers.wiring.start_checks import check_serve


def run(settings: Settings) -> None:
    """Answer until the client closes standard input. Raises UsageError without the package mcp, Mismatch."""
    check_mcp_installed()
    from consumers.query.mcp.server import serve_stdio

    with ExitStack() as stack:
        with _only_json_on_stdout():
            api = stack.enter_context(connections.milvus(settings, fail_fast=True))
            check_serve(settings, api)
            model = stack.enter_context(documents.embedder(settings, queries_first=True))
            tools = stack.enter_context(mcp_tools(settings, api, model))
        _end_at_signals()
        # While it runs, the SDK itself keeps other output off the descriptor.
        asyncio.run(serve_stdio(tools))


def _end_at_signals() -> None:
    """Let SIGTERM and SIGINT end the process where it is: it only reads, and a thread waits for standard input.

    No exception ends that thread, so an orderly end would wait for the client to close its side.
    """

    def end(number: int, _: object) -> None:
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


@contextmanager
def _only_json_on_stdout() -> Iterator[None]:
    """Send to stderr what libraries print, also below Python: the client reads every line of stdout as a message."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
