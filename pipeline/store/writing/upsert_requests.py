"""Upsert requests: many rows in few requests of bounded size; a refusal is traced to the document that caused it."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline import failpoints
from pipeline.errors import RequestTooLarge, RowsRefused
from pipeline.store.milvus.api import MilvusApi, Row

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """Limits of one request. More than some 2,000 rows are no faster; Milvus refuses 64 MiB."""

    max_rows: int = 1000
    max_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RowGroup(Generic[K]):
    """Rows that are accepted or refused together: those of one document in one Milvus partition."""

    owner: K
    rows: Sequence[Row]
    sizes: Sequence[int]
    """Bytes of each row."""


@dataclass(slots=True)
class Sent(Generic[K]):
    """The outcome of an upsert of groups."""

    rows: int = 0
    refused: dict[K, tuple[str, str]] = field(default_factory=dict)
    """Owner -> (reason, message). Of a group too large for one request, earlier rows may have been stored."""


def upsert_groups(
    api: MilvusApi,
    collection: str,
    partition: str | None,
    groups: Sequence[RowGroup[K]],
    policy: WritePolicy,
    *,
    sent: Sent[K],
    touched: set[K],
) -> None:
    """Upsert all groups; a refused request is split until the refused groups are alone. Results are added to `sent`.

    The owners of stored rows are added to `touched`. Raises the server's other errors; then the same call may be
    repeated. A request without an answer needs no record: the repetition stores the same rows before any later row of
    the same owner, or is refused again.
    """
    for request in _requests(groups, policy):
        _upsert(api, collection, partition, request, sent=sent, touched=touched)


def _upsert(
    api: MilvusApi,
    collection: str,
    partition: str | None,
    groups: Sequence[RowGroup[K]],
    *,
    sent: Sent[K],
    touched: set[K],
) -> None:
    groups = [group for group in groups if group.owner not in sent.refused]
    if not groups:
        return
    rows = [row for group in groups for row in group.rows]
    try:
        api.upsert(collection, partition, rows)
    except (RowsRefused, RequestTooLarge) as error:
        halves = _halves(groups, rows_too=isinstance(error, RequestTooLarge))
        if not halves:
            sent.refused[groups[0].owner] = "row_refused", str(error)
        for half in halves:
            _upsert(api, collection, partition, half, sent=sent, touched=touched)
    else:
        failpoints.hit("request_acked")
        sent.rows += len(rows)
        touched.update(group.owner for group in groups)


def _halves(groups: Sequence[RowGroup[K]], *, rows_too: bool) -> list[Sequence[RowGroup[K]]]:
    if len(groups) > 1:
        middle = len(groups) // 2
        return [groups[:middle], groups[middle:]]
    group = groups[0]
    middle = len(group.rows) // 2
    if not rows_too or not middle:
        return []
    return [[_cut(group, 0, middle)], [_cut(group, middle, len(group.rows))]]


def _cut(group: RowGroup[K], start: int, end: int) -> RowGroup[K]:
    return RowGroup(group.owner, group.rows[start:end], group.sizes[start:end])


def _requests(groups: Sequence[RowGroup[K]], policy: WritePolicy) -> Iterator[list[RowGroup[K]]]:
    """Requests within the limits; only a group that alone exceeds them is spread over several."""
    request: list[RowGroup[K]] = []
    rows = size = 0
    for group in groups:
        for part in _parts(group, policy):
            part_size = sum(part.sizes)
            if request and (rows + len(part.rows) > policy.max_rows or size + part_size > policy.max_bytes):
                yield request
                request, rows, size = [], 0, 0
            request.append(part)
            rows += len(part.rows)
            size += part_size
    if request:
        yield request


def _parts(group: RowGroup[K], policy: WritePolicy) -> Iterator[RowGroup[K]]:
    if len(group.rows) <= policy.max_rows and sum(group.sizes) <= policy.max_bytes:
        yield group
        return
    start = size = 0
    for index, row_size in enumerate(group.sizes):
        if index > start and (index - start >= policy.max_rows or size + row_size > policy.max_bytes):
            yield _cut(group, start, index)
            start, size = index, 0
        size += row_size
    yield _cut(group, start, len(group.rows))
