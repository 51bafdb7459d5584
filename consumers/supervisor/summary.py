"""The result of a run of several workers, from those of its processes."""

from collections.abc import Mapping, Sequence
from typing import Any


def merge_summaries(summaries: Sequence[Mapping[str, Any]], *, clean: bool) -> dict[str, object]:
    """Join the results for `--json`: `consumed` added up, the highest offset of each Kafka partition in `committed`.

    `seconds` is that of the longest run. `clean`: no process ended in another way.
    """
    committed: dict[str, int] = {}
    for summary in summaries:
        for partition, offset in summary["committed"].items():
            committed[partition] = max(offset, committed.get(partition, 0))
    return {
        "consumed": sum(summary["consumed"] for summary in summaries),
        "committed": dict(sorted(committed.items())),
        "seconds": max((summary["seconds"] for summary in summaries), default=0.0),
        "clean": clean and all(summary["clean"] for summary in summaries),
    }
