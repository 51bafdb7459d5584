"""Scan of a whole collection, one Milvus partition and one bounded page at a time.

Milvus 2.3.5 drops rows from a page in which an id occurs twice (measured: 22 rows, 20 ids, 19 answered). Such pages
are detected by a count and split until they are complete. Partitions are read one by one because a read of several
shows only one of the rows that have the same id in different partitions.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias

from pipeline.errors import NotFound, RequestTooLarge
from pipeline.store.milvus.api import DEFAULT_PARTITION, MilvusApi
from pipeline.store.milvus.expressions import literal

StoredRows: TypeAlias = list[dict[str, Any]]
Window: TypeAlias = tuple[int, int]
"""A range [low, high) of ids by their first 8 hex digits; ids that are not hex are in the first or last window."""

_SPACE = 2**32
_ANSWER_BYTES = 2 * 2**20
"""Target size of a page: Milvus refuses 64 MiB, and rows take several times their bytes in Python."""
_MAX_ROWS = 4_000
_SAMPLE = 20
_FEW = 200
"""This many rows always fit one page: 25 MiB if all had the largest text and the largest metadata."""
_AT_A_TIME = 8
"""Concurrent reads: a strong read waits some 0.2 s for the server's time tick, so waiting together is free."""
_SPLITS = 16
"""Parts of a window that must be split."""


class RowScan:
    """Strong reads of all rows of one collection; raises what `MilvusApi.query` raises."""

    def __init__(self, api: MilvusApi, collection: str, fields: Sequence[str]) -> None:
        """`fields` must include `id`."""
        self._api = api
        self._collection = collection
        self._fields = fields

    def counts(self, partitions: Sequence[str]) -> dict[str, int]:
        """Rows in each Milvus partition, repeated ids included; 0 for a partition that was dropped."""
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return dict(zip(partitions, pool.map(self._count_all, partitions), strict=True))

    def read(self, counts: Mapping[str, int]) -> Iterator[tuple[str, StoredRows]]:
        """The rows of these Milvus partitions in pages, each id once a partition. `counts`: rows expected in each."""
        work = ((name, window) for name, count in counts.items() if count for window in self._windows(name, count))
        yield from self._pipelined(((name, expression(window), window) for name, window in work))

    def exact(self, partition: str, where: str = "") -> Iterator[tuple[StoredRows, Mapping[str, int]]]:
        """The matching rows of one Milvus partition in pages checked by a count, each with its ids stored repeatedly.

        Slower than `read`. Raises RequestTooLarge where a page cannot be split further.
        """
        pool = ThreadPoolExecutor(_AT_A_TIME)
        with pool:
            waiting = deque([(0, _SPACE)] if where else windows(self._count_all(partition), _MAX_ROWS))
            while waiting:
                concurrent = [waiting.popleft() for _ in range(min(len(waiting), _AT_A_TIME))]
                pages = pool.map(lambda window: self._page(partition, window, where), concurrent)
                for window, page in zip(concurrent, pages, strict=True):
                    if page is None:
                        waiting.extend(_split(window))
                    elif page[0]:
                        yield page

    def _page(self, partition: str, window: Window, where: str) -> tuple[StoredRows, dict[str, int]] | None:
        """The rows of a window and how often each repeated id is stored; None: the window must be split."""
        inside = " and ".join(filter(None, (expression(window), f"({where})" if where else "")))
        can_split = window[1] - window[0] > 1
        try:
            rows = self._query(partition, inside, self._fields)
        except RequestTooLarge:
            if not can_split:
                raise
            return None
        # 1. The answer has as many rows as the window: complete.
        if not self._api.server.capabilities.stores_repeated_ids or self._count(partition, inside) <= len(rows):
            return rows, {}
        # 2. Some id is repeated among several, and may have hidden others: split.
        if len(rows) > 1 and can_split:
            return None
        # 3. One id, or a window that cannot be split: the copies of the ids must explain the difference.
        counts = {row["id"]: self._count(partition, f"id == {literal(row['id'])}") for row in rows}
        if can_split and sum(counts.values()) < self._count(partition, inside):
            return None
        return rows, {identifier: count for identifier, count in counts.items() if count > 1}

    def _pipelined(self, work: Iterator[tuple[str, str, Window | None]]) -> Iterator[tuple[str, StoredRows]]:
        """Read ahead by up to eight pages; pages come in the order of `work`."""
        under_way: deque[tuple[str, Future[StoredRows]]] = deque()
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            for name, where, window in work:
                under_way.append((name, pool.submit(self._read, name, where, window)))
                if len(under_way) >= _AT_A_TIME:
                    partition, rows = under_way.popleft()
                    yield partition, rows.result()
            for partition, rows in under_way:
                yield partition, rows.result()

    def _count_all(self, partition: str) -> int:
        try:
            return self._api.count(self._collection, partitions=[partition])
        except NotFound:
            return 0

    def _windows(self, partition: str, count: int) -> list[Window]:
        if count <= _FEW:
            return windows(count, _FEW)
        try:
            sample = self._api.query(
                self._collection, 'id >= ""', self._fields, partitions=[partition], strong=True, limit=_SAMPLE
            )
        except NotFound:
            return []
        size = sum(len(str(row)) for row in sample) / max(1, len(sample))
        return windows(count, max(_SAMPLE, min(_MAX_ROWS, int(_ANSWER_BYTES / max(1.0, size)))))

    def _read(self, partition: str, where: str, window: Window | None) -> StoredRows:
        try:
            return self._query(partition, where, self._fields)
        except RequestTooLarge:
            if window is None or window[1] - window[0] < 2:
                raise
        low, high = window
        middle = (low + high) // 2
        halves = (low, middle), (middle, high)
        return [row for half in halves for row in self._read(partition, expression(half), half)]

    def _query(self, partition: str, where: str, fields: Sequence[str]) -> StoredRows:
        try:
            return self._api.query(self._collection, where, fields, partitions=[partition], strong=True)
        except NotFound:
            return []  # retention dropped the partition during the scan

    def _count(self, partition: str, where: str) -> int:
        rows = self._query(partition, where, ["count(*)"])
        return int(rows[0]["count(*)"]) if rows else 0


def all_partitions(api: MilvusApi, collection: str) -> list[str]:
    """All Milvus partitions of a collection, `_default` included."""
    return [DEFAULT_PARTITION, *api.partitions(collection)]


def windows(count: int, rows: int) -> list[Window]:
    """Windows of about `rows` rows that cover all ids. Ids are digests, so they are distributed evenly."""
    parts = max(1, min(_SPACE, -(-count // rows)))
    edges = [number * _SPACE // parts for number in range(parts + 1)]
    return list(pairwise(edges))


def expression(window: Window) -> str:
    """The filter expression of a window."""
    low, high = window
    bounds = [f'id >= "{low:08x}"'] if low else []
    bounds += [f'id < "{high:08x}"'] if high < _SPACE else []
    return " and ".join(bounds) or 'id >= ""'


def _split(window: Window) -> list[Window]:
    low, high = window
    count = min(_SPLITS, high - low)
    return list(pairwise(low + number * (high - low) // count for number in range(count + 1)))
