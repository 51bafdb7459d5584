"""Metrics of several workers as one text: every sample with the label `worker`, HELP and TYPE once a metric.

A scrape that has a metric in two places is refused by Prometheus as a whole, so the samples of all workers follow each
other.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

LABEL = "worker"
_SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})?(?P<value>[ \t].*)")
"""Greedy up to the last brace: a label's value may contain one, what follows the labels cannot."""


@dataclass(slots=True)
class _Metric:
    """One metric: its HELP and TYPE lines, and the samples of all workers."""

    head: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)


def merge(texts: Mapping[str, str]) -> str:
    """Merge the text expositions by the name of their worker; no sample may have a label `worker` yet.

    Every text has one block a metric, as prometheus_client writes it: HELP and TYPE first, then its samples. Raises
    ValueError for a line that is no sample.
    """
    metrics: dict[str, _Metric] = {}
    for worker, text in texts.items():
        name = ""
        heads: dict[str, list[str]] = {}
        for line in text.split("\n"):
            if line.startswith(("# HELP ", "# TYPE ")):
                name = line.split(" ", 3)[2]
                heads.setdefault(name, []).append(line)
                metrics.setdefault(name, _Metric())
            elif line and not line.startswith("#"):
                metrics.setdefault(name, _Metric()).samples.append(_labelled(line, worker))
        for name, head in heads.items():
            metrics[name].head = metrics[name].head or head
    return "".join(f"{line}\n" for metric in metrics.values() for line in (*metric.head, *metric.samples))


def _labelled(line: str, worker: str) -> str:
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"no sample of the text exposition: {line[:200]!r}")
    labels = f",{match['labels']}" if match["labels"] else ""
    return f'{match["name"]}{{{LABEL}="{worker}"{labels}}}{match["value"]}'
