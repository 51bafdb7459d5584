"""Ranking of one query's hits: one version of each document, one result a group. Pure."""

from collections.abc import Sequence
from typing import Literal

from pipeline.records import TENANT_FIELD, Position
from pipeline.store import Hit


def rank(
    hits: Sequence[Hit],
    *,
    group_by: Literal["doc_id"] | None,
    one_version: bool,
    limit: int,
    group_size: int = 1,
) -> list[Hit]:
    """The best `limit` hits, given best first.

    No id twice; with `one_version` only the newest version of each document. With `group_by` the best `limit`
    documents, each with its best `group_size` chunks one after the other.
    """
    unique: dict[str, Hit] = {}
    for hit in hits:
        unique.setdefault(hit.id, hit)
    candidates = list(unique.values())
    if one_version:
        candidates = newest_versions(candidates)
    if group_by is None:
        return candidates[:limit]
    groups: dict[tuple[object, str], list[Hit]] = {}
    for hit in candidates:
        groups.setdefault(document_of(hit), []).append(hit)
    return [hit for group in list(groups.values())[:limit] for hit in group[:group_size]]


def best(hits: Sequence[Hit], *, group_by: Literal["doc_id"] | None, limit: int) -> list[Hit]:
    """The first `limit` hits, or with `group_by` those of the first `limit` documents."""
    if group_by is None:
        return list(hits[:limit])
    documents = set(list(dict.fromkeys(map(document_of, hits)))[:limit])
    return [hit for hit in hits if document_of(hit) in documents]


def results_in(hits: Sequence[Hit], group_by: Literal["doc_id"] | None) -> int:
    """How many of the results that a limit counts there are: hits, or with `group_by` documents."""
    return len(hits) if group_by is None else len(set(map(document_of, hits)))


def newest_versions(hits: Sequence[Hit]) -> list[Hit]:
    """Drop the older rows of a document of which two versions are visible, as while the writer replaces it.

    1. Of one topic and Kafka partition: the higher offset is newer.
    2. Across them: the later event time is newer.
    3. With the same event time: the later name of topic and partition, so that the order of hits decides nothing.
    """
    newest: dict[tuple[object, str], Hit] = {}
    for hit in hits:
        best = newest.get(document_of(hit))
        if best is None or _newer(hit, best):
            newest[document_of(hit)] = hit
    return [hit for hit in hits if position_of(hit) == position_of(newest[document_of(hit)])]


def document_of(hit: Hit) -> tuple[object, str]:
    """The identity of a document: two tenants may use the same doc_id."""
    return hit.fields.get(TENANT_FIELD), hit.fields["doc_id"]


def position_of(hit: Hit) -> Position:
    """The record that wrote the row."""
    return Position(hit.fields["kafka_topic"], hit.fields["kafka_partition"], hit.fields["kafka_offset"])


def _newer(hit: Hit, than: Hit) -> bool:
    position, other = position_of(hit), position_of(than)
    if position[:2] == other[:2]:
        return position[2] > other[2]
    return (hit.fields["event_time"], position) > (than.fields["event_time"], other)
