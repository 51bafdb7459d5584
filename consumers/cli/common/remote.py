"""The query worker that a command asks with `--url`."""

from consumers.cli.common.output import stderr
from consumers.clients.query_worker import QueryWorker
from consumers.config import Settings


def query_worker(settings: Settings, url: str) -> QueryWorker:
    """The query worker at an address, asked with the configured key. Raises UsageError for what is no address."""
    key = settings.client.api_key
    worker = QueryWorker(url, None if key is None else key.get_secret_value())
    if worker.sends_key_in_clear:
        stderr().print("warning: client.api_key crosses the network in the clear; use an https address")
    return worker
