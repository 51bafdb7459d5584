"""The number of rows that a filter and a time range match, whatever the query."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipeline.errors import NotFound, RequestRefused, Unavailable
from pipeline.query.canary_rows import except_canaries
from pipeline.query.plan import SearchPlan
from pipeline.store import MilvusApi

_LONGEST_S = 1.0
"""Most time of a count; at most half of what the request has left."""
_NOT_COUNTED = "total is null: Milvus did not count the rows in the time there was; narrow time or filter"


def count_rows(
    api: MilvusApi,
    collection: str,
    plan: SearchPlan,
    left_s: float,
    consistency: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[int | None, tuple[str, ...]]:
    """The rows, by one call, and no warning; or None and a warning where Milvus does not answer in its time.

    Chunks are counted, among them those of an older version while it is replaced.
    """
    timeout_s = min(_LONGEST_S, left_s / 2)
    if timeout_s <= 0:
        return None, (_NOT_COUNTED,)
    try:
        rows = api.query(
            collection,
            except_canaries(plan.expression),
            ["count(*)"],
            partitions=plan.partitions,
            timeout=timeout_s,
            **consistency,
        )
    except (Unavailable, NotFound, RequestRefused):
        return None, (_NOT_COUNTED,)
    return int(rows[0]["count(*)"]), ()
