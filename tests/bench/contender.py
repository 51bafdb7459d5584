"""The side of a contender: a process of its own that loads, prepares a job, waits for the word and measures itself.

One JSON object a line. In: a job, then `{"go": true}`. Out: `{"ready": …}` when the job may begin, then its figures.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Go = Callable[[], Mapping[str, Any]]
"""Does the prepared job; returns figures beside time, processor time and memory."""


def contend(prepare: Callable[[dict[str, Any]], Go]) -> None:
    """Serve jobs until standard input ends. Loading and warming up is done before this is called."""
    # What libraries print must not get between the figures.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        go = prepare(json.loads(line))
        answers.write(json.dumps({"ready": True}) + "\n")
        sys.stdin.readline()
        began, cpu = time.perf_counter(), time.process_time()
        figures = go()
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        answers.write(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_rss_bytes": peak_rss(), **figures}) + "\n")


def peak_rss() -> int:
    """Most bytes this process had in memory. `ru_maxrss` would count what its parent had when it started this one."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: benchmarks need Linux")


def arguments() -> dict[str, Any]:
    """What the benchmark gave this contender."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given
