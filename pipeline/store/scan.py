"""Every row of a collection, asked of each Milvus partition by itself, a bounded part of it at a time.

A server may hold a row's id in several Milvus partitions, and an unscoped read shows one of them. It may also hold an
id twice in one partition: then Milvus 2.3.5 shows it once and leaves other rows out of the same answer, which only a
count tells (measured: 22 rows, 20 ids, 19 answered). Such answers are asked for again in ever smaller parts.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias

from pipeline.errors import NotFound, RequestTooLarge
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.partitions import DEFAULT_PARTITION

StoredRows: TypeAlias = list[dict[str, Any]]
Window: TypeAlias = tuple[int, int]
"""Ids by their first 8 hex digits, [low, high). The first and the last window also hold the ids that are no hex."""

_SPACE = 2**32
_ANSWER_BYTES = 2 * 2**20
"""Text and metadata aimed at in one answer: Milvus refuses 64 MiB, and Python takes several times the bytes."""
_MAX_ROWS = 4_000
_SAMPLE = 20
_FEW = 200
"""So many rows fit an answer, whatever is in them (64 KiB of text and as much metadata are rare, and 25 MiB then)."""
_AT_A_TIME = 8
"""Strong reads wait some 0.2 s for the server's time tick: waiting together costs nothing."""
_PARTS = 16


class RowScan:
    """Reads all rows of one collection with strong consistency; raises what `MilvusApi.query` raises."""

    def __init__(self, api: MilvusApi, collection: str, fields: Sequence[str]) -> None:
        """`fields` must hold `id`."""
        self._api = api
        self._collection = collection
        self._fields = fields

    def counts(self, partitions: Sequence[str]) -> dict[str, int]:
        """Rows in each Milvus partition, every copy counted; 0 if it is gone."""
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return dict(zip(partitions, pool.map(self._all, partitions), strict=True))

    def read(self, counts: Mapping[str, int]) -> Iterator[tuple[str, StoredRows]]:
        """The rows of these Milvus partitions in parts, each id once in its partition. `counts`: about how many."""
        work = ((name, window) for name, count in counts.items() if count for window in self._windows(name, count))
        yield from self._together(((name, expression(window), window) for name, window in work))

    def exact(self, partition: str, where: str = "") -> Iterator[tuple[StoredRows, Mapping[str, int]]]:
        """The rows of one Milvus partition that match, each answer checked by a count, with the ids stored repeatedly.

        Raises RequestTooLarge where an answer cannot be made smaller.
        """
        pool = ThreadPoolExecutor(_AT_A_TIME)
        with pool:
            waiting = deque([(0, _SPACE)] if where else windows(self._all(partition), _MAX_ROWS))
            while waiting:
                some = [waiting.popleft() for _ in range(min(len(waiting), _AT_A_TIME))]
                looks = pool.map(lambda window: self._look(partition, window, where), some)
                for window, (rows, copies, split) in zip(some, looks, strict=True):
                    if split:
                        waiting.extend(_parts(window))
                    elif rows:
                        yield rows, copies

    def _look(self, partition: str, window: Window, where: str) -> tuple[StoredRows, dict[str, int], bool]:
        """Rows of a window, ids stored more than once, and whether it must be split for the rows to be all there."""
        inside = " and ".join(filter(None, (expression(window), f"({where})" if where else "")))
        wide = window[1] - window[0] > 1
        try:
            rows = self._query(partition, inside, self._fields)
        except RequestTooLarge:
            if not wide:
                raise
            return [], {}, True
        if self._api.server.lite or self._count(partition, inside) <= len(rows):
            return rows, {}, False
        if len(rows) > 1 and wide:
            return [], {}, True
        counts = {row["id"]: self._count(partition, f"id == {_literal(row['id'])}") for row in rows}
        if wide and sum(counts.values()) < self._count(partition, inside):
            return [], {}, True
        return rows, {identifier: count for identifier, count in counts.items() if count > 1}, False

    def _together(self, work: Iterator[tuple[str, str, Window | None]]) -> Iterator[tuple[str, StoredRows]]:
        under_way: deque[tuple[str, Future[StoredRows]]] = deque()
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            for name, where, window in work:
                under_way.append((name, pool.submit(self._read, name, where, window)))
                if len(under_way) >= _AT_A_TIME:
                    partition, rows = under_way.popleft()
                    yield partition, rows.result()
            for partition, rows in under_way:
                yield partition, rows.result()

    def _all(self, partition: str) -> int:
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
            return []  # dropped meanwhile, by retention

    def _count(self, partition: str, where: str) -> int:
        rows = self._query(partition, where, ["count(*)"])
        return int(rows[0]["count(*)"]) if rows else 0


def all_partitions(api: MilvusApi, collection: str) -> list[str]:
    """The Milvus partitions of a collection with the one every collection has."""
    return [DEFAULT_PARTITION, *api.partitions(collection)]


def windows(count: int, rows: int) -> list[Window]:
    """Windows that together hold every id, of about `rows` rows each: ids are digests, so they are spread evenly."""
    parts = max(1, min(_SPACE, -(-count // rows)))
    edges = [number * _SPACE // parts for number in range(parts + 1)]
    return list(pairwise(edges))


def expression(window: Window) -> str:
    """The filter for a window."""
    low, high = window
    bounds = [f'id >= "{low:08x}"'] if low else []
    bounds += [f'id < "{high:08x}"'] if high < _SPACE else []
    return " and ".join(bounds) or 'id >= ""'


def _parts(window: Window) -> list[Window]:
    low, high = window
    count = min(_PARTS, high - low)
    return list(pairwise(low + number * (high - low) // count for number in range(count + 1)))


def _literal(identifier: str) -> str:
    # Also an id of another program: as JSON, any text is its own literal.
    return json.dumps(identifier, ensure_ascii=False)
