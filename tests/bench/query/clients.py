"""One client of the query worker, as fast as a client can be: one connection, and the seconds of each answer."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import numpy as np


class SearchClient:
    """Searches over one connection that stays open."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection

    def seconds(self, body: Mapping[str, Any]) -> float:
        """Search, and return how long the answer took. Raises RuntimeError for any answer but 200 with results."""
        sent = json.dumps(body).encode()
        began = time.perf_counter()
        self._connection.request("POST", "/v1/search", sent, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        read = answer.read()
        took = time.perf_counter() - began
        if answer.status != 200 or not json.loads(read)["results"]:
            raise RuntimeError(f"the query worker answered {answer.status}: {read[:500]!r}")
        return took


@contextmanager
def search_client(port: int) -> Iterator[SearchClient]:
    """A client of the query worker at this port of the loopback."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        yield SearchClient(connection)


def p50_ms(seconds: list[float]) -> float:
    """The median in milliseconds."""
    return 1000 * float(np.percentile(seconds, 50))


def p99_ms(seconds: list[float]) -> float:
    """The 99th percentile in milliseconds."""
    return 1000 * float(np.percentile(seconds, 99))
