"""The CPU request of a container, which nothing in the container shows: it is handed in by an environment variable."""

import math
import os
import re
from collections.abc import Mapping

from pipeline.errors import UsageError

VARIABLE = "MILVUS_STREAM_CPU_REQUEST"
_QUANTITY = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<milli>m?)")


def requested_cpus(environment: Mapping[str, str] = os.environ) -> int | None:
    """The requested cores, rounded up: `2`, `0.5` or `1500m`, as Kubernetes writes them; None where none are given.

    Raises UsageError for anything else.
    """
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return None
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UsageError(f"environment variable {VARIABLE} is {text!r}: write cores, such as 2 or 1500m")
    cores = float(match["number"]) / (1000 if match["milli"] else 1)
    return math.ceil(cores) or None
