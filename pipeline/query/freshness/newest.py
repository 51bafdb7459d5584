"""The newest event time that is searchable, found by a few reads of bounded size."""

from pipeline.errors import NotFound
from pipeline.query.canary_rows import except_canaries
from pipeline.store import MilvusApi

_ROWS = 256
_READS = 4
_TIMEOUT_S = 5.0


class NewestEventTime:
    """The newest event time of a collection; used by one thread at a time.

    Milvus has no maximum. A read answers any 256 rows later than the newest time known; of N such rows some N / 256 are
    later than all of these, so three reads find the newest of ten million, and one confirms it. What four reads have
    not found is found by the next call. A document that is deleted keeps its time the newest.
    """

    def __init__(self, api: MilvusApi, collection: str) -> None:
        self._api = api
        self._collection = collection
        self._newest: int | None = None

    def read(self) -> int | None:
        """Epoch milliseconds; None without a document. Raises Unavailable."""
        try:
            for _ in range(_READS):
                later = "" if self._newest is None else f"event_time > {self._newest}"
                rows = self._api.query(
                    self._collection, except_canaries(later), ["event_time"], limit=_ROWS, timeout=_TIMEOUT_S
                )
                if not rows:
                    break
                self._newest = max(row["event_time"] for row in rows)
        except NotFound:
            self._newest = None
        return self._newest
