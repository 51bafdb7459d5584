"""Upsert requests: many rows in few requests of bounded size; a refusal is traced to the document that caused it."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline import failpoints
from pipeline.errors import RequestTooLarge, RowsRefused, UnlistedAnswer
from pipeline.store.milvus.api import MilvusApi, Row
from pipeline.store.writing.requests.unlisted_answers import UNLISTED, UnlistedAnswers, UnlistedPolicy, Verdict

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """Limits of one request. More than some 2,000 rows are no faster; Milvus refuses 64 MiB."""

    max_rows: int = 1000
    """Only a document alone may have more: from Milvus 2.6 on, readers see the rows of one request all at once."""
    max_bytes: int = 16 * 1024 * 1024
    unlisted: UnlistedPolicy = UNLISTED


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
    set_aside: dict[K, str] = field(default_factory=dict)
    """Owner -> the server's words, which may or may not mean that its rows can never be stored: to be tried later."""


class UpsertRequests(Generic[K]):
    """Upserts into one collection; what Milvus has answered to earlier ones decides about words that no table lists."""

    def __init__(self, api: MilvusApi, collection: str, policy: WritePolicy) -> None:
        self._api = api
        self._collection = collection
        self._policy = policy
        self._unlisted: UnlistedAnswers[tuple[K, str]] = UnlistedAnswers(policy.unlisted)

    def send(self, partition: str | None, groups: Sequence[RowGroup[K]], *, sent: Sent[K], touched: set[K]) -> None:
        """Upsert all groups; a refused request is split until the refused groups are alone.

        Results are added to `sent`, the owners of stored rows to `touched`. Raises the server's other errors; then the
        same call may be repeated. A request without an answer needs no record: the repetition stores the same rows
        before any later row of the same owner, or is refused again.
        """
        for request in _requests(groups, self._policy):
            self._upsert(partition, request, sent, touched, part=False)

    def _upsert(
        self, partition: str | None, groups: Sequence[RowGroup[K]], sent: Sent[K], touched: set[K], *, part: bool
    ) -> None:
        groups = [group for group in groups if group.owner not in sent.refused and group.owner not in sent.set_aside]
        if not groups:
            return
        owners = [group.owner for group in groups]
        rows = [row for group in groups for row in group.rows]
        # A document of several requests is suspected by its parts: that one was accepted says nothing of the others.
        keys = [(group.owner, str(group.rows[0]["id"])) for group in groups]
        try:
            self._api.upsert(self._collection, partition, rows)
        except (RowsRefused, RequestTooLarge) as error:
            halves = _halves(groups, rows_too=isinstance(error, RequestTooLarge))
            if not halves:
                sent.refused[owners[0]] = "row_refused", str(error)
        except UnlistedAnswer as error:
            halves = []
            match self._unlisted.refused(keys, str(error), part=part):
                case Verdict.REPEAT:
                    raise
                case Verdict.SPLIT:
                    halves, part = _halves(groups, rows_too=False), True
                case Verdict.SET_ASIDE:
                    sent.set_aside[owners[0]] = str(error)
                case Verdict.REFUSE:
                    sent.refused[owners[0]] = "refused_by_milvus", str(error)
        else:
            failpoints.hit("request_acked")
            sent.rows += len(rows)
            touched.update(owners)
            self._unlisted.accepted(keys)
            return
        for half in halves:
            self._upsert(partition, half, sent, touched, part=part)


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
    """Requests within the limits; only a group that alone has too many bytes is spread over several."""
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
    if sum(group.sizes) <= policy.max_bytes:
        yield group
        return
    start = size = 0
    for index, row_size in enumerate(group.sizes):
        if index > start and size + row_size > policy.max_bytes:
            yield _cut(group, start, index)
            start, size = index, 0
        size += row_size
    yield _cut(group, start, len(group.rows))
