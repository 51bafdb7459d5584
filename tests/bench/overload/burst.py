"""Far more clients than the query worker answers at a time: what they get, and how long it takes to recover."""

import asyncio
import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np

from tests.bench.report import Target, say
from tests.bench.workers import Figures, Workers, request

RECOVERY_S = 5.0
"""After a burst a search must take its usual time again."""
ADMITTED_FACTOR = 2.0
"""How many times the p99 at capacity a search that is admitted in the burst may take."""
MOST_GROWTH = 1.15
"""Of the query worker's own memory in the burst."""
USUAL_FACTOR = 2.0
"""How many times the median of before still counts as usual: one slow turn of the machine is no failure."""


async def _client(port: int, until: float, found: Figures) -> None:
    """Search again and again on one connection; a lost connection counts as status 0."""
    wanted = request()
    while time.monotonic() < until:
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while time.monotonic() < until:
                    started = time.monotonic()
                    writer.write(wanted)
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
                    status = int(head.split()[1])
                    found.statuses[status] += 1
                    if status == 200:
                        found.ok_s.append(time.monotonic() - started)
                    elif status == 429:
                        await asyncio.sleep(0.02)
            finally:
                writer.close()
            return
        found.statuses[0] += 1


async def _clients(port: int, count: int, seconds: float) -> Figures:
    found = Figures(seconds)
    until = time.monotonic() + seconds
    await asyncio.gather(*(_client(port, until, found) for _ in range(count)))
    return found


def burst(at: Workers, clients: int, seconds: float) -> tuple[list[dict[str, Any]], list[Target]]:
    """One client, a few, far too many, and one again; memory and descriptors at each."""
    capacity = max(1, clients // 10)
    asyncio.run(_clients(at.port, capacity, 3.0))  # to warm up
    rows = []
    found: dict[str, Figures] = {}
    for name, count, lasts in (
        ("1 before", 1, 5.0),
        (f"{capacity}", capacity, 15.0),
        (f"{clients}", clients, seconds),
        ("1 after", 1, RECOVERY_S),
    ):
        say(f"{name}: {count} clients for {lasts:.0f} s")
        peak: dict[str, float] = {}
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(at, peak, ended))
        watcher.start()
        found[name] = asyncio.run(_clients(at.port, count, lasts))
        ended.set()
        watcher.join()
        rows.append({**found[name].row(name), **{f"most {key}": value for key, value in peak.items()}})
    time.sleep(1.0)
    before, after = found["1 before"], found["1 after"]
    # What came within the last second of the time allowed.
    late = after.ok_s[len(after.ok_s) * 4 // 5 :]
    usual = 1000 * float(np.median(before.ok_s))
    other = {
        name: sum(each.statuses.values()) - each.statuses[200] - each.statuses[429] for name, each in found.items()
    }
    at_capacity, overloaded = (1000 * float(np.percentile(found[f"{count}"].ok_s, 99)) for count in (capacity, clients))
    growth = rows[2]["most USS MiB"] / rows[1]["most USS MiB"]
    targets = [
        Target("p99 of what is admitted / at capacity", overloaded / at_capacity, ADMITTED_FACTOR, at_most=True),
        Target("memory / at capacity", growth, MOST_GROWTH, at_most=True),
        Target(
            f"p50 ms in the {RECOVERY_S:.0f}th second after", 1000 * float(np.median(late)), USUAL_FACTOR * usual, True
        ),
        Target("answers that are neither 200 nor 429", sum(other.values()), 0, at_most=True),
        Target("429s under overload", found[f"{clients}"].statuses[429], 1),
        Target("descriptors after it", at.use("serve")["descriptors"], rows[0]["most descriptors"] + 2, at_most=True),
    ]
    return rows, targets


def _watch(at: Workers, peak: dict[str, float], ended: threading.Event) -> None:
    while True:
        for name, value in at.use("serve").items():
            peak[name] = max(value, peak.get(name, 0))
        if ended.wait(0.25):
            return
