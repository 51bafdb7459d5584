"""The parts of the page that its composition chooses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from consumers.query.web.ports import (
    Access,
    Documents,
    FreshnessSource,
    Marks,
    ReadsPartitions,
    ReadsPipeline,
    Searches,
    Similar,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageParts:
    """What the page shows; a part that is None has no link and no panel."""

    collection: str
    searches: Searches
    max_results: int
    """Most results of one search."""
    names: Callable[[], Sequence[str]]
    """Known names of metadata, of all tenants; calls nothing."""
    partitions: ReadsPartitions | None = None
    documents: Documents | None = None
    similar: Similar | None = None
    marks: Marks | None = None
    freshness: FreshnessSource | None = None
    pipeline: ReadsPipeline | None = None
    access: Access | None = None

    def frame(self, tenant: str | None, here: str) -> dict[str, Any]:
        """What every page shows around its own content: `here` is its path."""
        tabs = [("/", "Search")]
        if tenant is None:
            tabs += [("/partitions", "Partitions"), ("/pipeline", "Pipeline")]
        return {"collection": self.collection, "tabs": tabs, "here": here, "keys": self.access is not None}
