"""Both workers over minutes: records, searches and a client that does not read; what they use must not grow."""

import socket
import threading
import time
from contextlib import closing, suppress
from typing import Any

import httpx

from tests.bench.report import Target, say
from tests.bench.stage import KAFKA_PARTITIONS
from tests.bench.workers import Figures, Workers, request
from tests.support.rigs.load import Load
from tests.support.rigs.publisher import publisher

RECORDS_PER_S = 100
SEARCHES_PER_S = 8
SETTLED_S = 60.0
"""Caches and pools are filled by then; what grows later grows for ever."""
MOST_GROWTH = 1.10
DEAF_S = 15.0
"""Longer than the server waits for a client that does not read; then the next one comes."""
DEAF_SEARCHES = 50
"""Answers that together are more than the kernel buffers."""


def soak(at: Workers, kafka: str, seconds: float) -> tuple[list[dict[str, Any]], list[Target]]:
    """Load both workers; what they use at the start, when they have settled, and at the end."""
    ended = threading.Event()
    found = Figures(seconds)
    published: list[int] = []
    threads = [
        threading.Thread(target=_publish, args=(kafka, at.topic, published, ended)),
        threading.Thread(target=_search, args=(at.port, found, ended)),
        threading.Thread(target=_do_not_read, args=(at.port, ended)),
    ]
    begun = time.monotonic()
    used = {"start": {name: at.use(name) for name in ("ingest", "serve")}}
    for thread in threads:
        thread.start()
    settled_s = min(SETTLED_S, seconds / 2)
    say(f"soaking for {seconds:.0f} s")
    for name, after_s in ((f"{settled_s:.0f} s", settled_s), ("end", seconds)):
        time.sleep(max(0.0, begun + after_s - time.monotonic()))
        used[name] = {worker: at.use(worker) for worker in ("ingest", "serve")}
    ended.set()
    for thread in threads:
        thread.join()
    rows = [{"": f"{worker}, {when}", **used[when][worker]} for worker in ("ingest", "serve") for when in used]
    settled, last = list(used.values())[1:]
    targets = [
        Target(f"{what} of {worker} at the end / settled", last[worker][what] / settled[worker][what], most, True)
        for worker in ("ingest", "serve")
        for what, most in (("USS MiB", MOST_GROWTH), ("descriptors", 1.3), ("threads", 1.3))
    ]
    say(f"{sum(published)} records published, searches by status: {dict(found.statuses)}")
    failed = sum(found.statuses.values()) - found.statuses[200]
    return rows, [*targets, Target("searches that failed", failed, 0, at_most=True)]


def _publish(kafka: str, topic: str, published: list[int], ended: threading.Event) -> None:
    load = Load(2, KAFKA_PARTITIONS)
    with publisher(kafka, topic) as sender:
        while not ended.wait(1 / 10):
            sender.publish(load.next_records(RECORDS_PER_S // 10))
            published.append(RECORDS_PER_S // 10)
        sender.flush(60)


def _search(port: int, found: Figures, ended: threading.Event) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        while not ended.wait(1 / SEARCHES_PER_S):
            started = time.monotonic()
            try:
                status = client.post("/v1/search", json={"query": "harbour lantern", "limit": 10}).status_code
            except httpx.TransportError:
                status = 0
            found.statuses[status] += 1
            found.ok_s.append(time.monotonic() - started)


def _do_not_read(port: int, ended: threading.Event) -> None:
    """One client after the other that asks for much and reads nothing."""
    while not ended.is_set():
        with closing(socket.socket()) as client, suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(5)
            client.connect(("127.0.0.1", port))
            client.sendall(request(1000) * DEAF_SEARCHES)
            ended.wait(DEAF_S)
