"""The parts of the page that its composition chooses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from consumers.query.access import Access, Caller
from consumers.query.web.ports import (
    Documents,
    Freshness,
    FreshnessSource,
    Marks,
    ReadsPartitions,
    ReadsPipeline,
    Similar,
)
from pipeline.query import SearchService


@dataclass(frozen=True, slots=True, kw_only=True)
class PageParts:
    """What the page shows; a part that is None has no link and no panel."""

    collection: str
    searches: SearchService
    access: Access
    names: Callable[[str | None], Sequence[str]]
    """Known names of a tenant's metadata, None: of documents of every tenant; calls nothing."""
    partitions: ReadsPartitions | None = None
    documents: Documents | None = None
    similar: Similar | None = None
    marks: Marks | None = None
    freshness: FreshnessSource | None = None
    pipeline: ReadsPipeline | None = None

    def frame(self, caller: Caller, here: str) -> dict[str, Any]:
        """What every page shows around its own content: `here` is its path."""
        tabs = [("/", "Search")]
        if sees_counts(caller):
            tabs.append(("/partitions", "Partitions"))
        if sees_pipeline(caller):
            tabs.append(("/pipeline", "Pipeline"))
        return {"collection": self.collection, "tabs": tabs, "here": here, "keys": self.access.authenticates}

    async def fresh(self, caller: Caller) -> Freshness | None:
        """How recent searches are; the records that wait are of every tenant. None: the page does not show it."""
        if self.freshness is None:
            return None
        fresh = await self.freshness.freshness()
        return fresh if sees_counts(caller) else replace(fresh, lag_records=None)


def sees_counts(caller: Caller) -> bool:
    """Whether the caller may see numbers of rows, which are of every tenant."""
    return caller.tenant is None


def sees_pipeline(caller: Caller) -> bool:
    """Whether the caller may see offsets and rejected records, as it may see the metrics."""
    return caller.tenant is None and caller.may("admin")
