"""From the hits of one query to its results: one version of each document, one result a group. Pure."""

from collections.abc import Iterable, Sequence
from typing import Literal

from pipeline.records import TENANT_FIELD
from pipeline.store import Hit


def similarity_score(metric: str, score: float) -> float:
    """A score where higher is always nearer: COSINE and IP unchanged, an L2 distance d as 1 / (1 + d)."""
    return 1.0 / (1.0 + score) if metric == "L2" else score


def rank(
    hits: Sequence[Hit],
    *,
    group_by: Literal["doc_id"] | None,
    one_version: bool,
    limit: int,
) -> list[Hit]:
    """The best `limit` hits, given best first.

    No id twice; with `one_version` only the newest version of each document; with `group_by` its best chunk alone.
    """
    unique: dict[str, Hit] = {}
    for hit in hits:
        unique.setdefault(hit.id, hit)
    kept = list(unique.values())
    if one_version:
        kept = _newest_versions(kept)
    if group_by is None:
        return kept[:limit]
    groups: dict[tuple[object, str], Hit] = {}
    for hit in kept:
        groups.setdefault(_document(hit), hit)
    return list(groups.values())[:limit]


def _newest_versions(hits: Sequence[Hit]) -> list[Hit]:
    """While the writer replaces a document, rows of two versions are visible; drop those of the older one.

    Offsets of the same topic and Kafka partition compare; across partitions the later event time wins, then the name
    of the partition, so that the answer does not depend on the order of hits.
    """
    newest: dict[tuple[object, str], Hit] = {}
    for hit in hits:
        best = newest.get(_document(hit))
        if best is None or _newer(hit, best):
            newest[_document(hit)] = hit
    return [hit for hit in hits if _position(hit) == _position(newest[_document(hit)])]


def _document(hit: Hit) -> tuple[object, str]:
    """Two tenants may use the same doc_id."""
    return hit.fields.get(TENANT_FIELD), hit.fields["doc_id"]


def _position(hit: Hit) -> tuple[str, int, int]:
    return hit.fields["kafka_topic"], hit.fields["kafka_partition"], hit.fields["kafka_offset"]


def _newer(hit: Hit, than: Hit) -> bool:
    ours, theirs = _position(hit), _position(than)
    if ours[:2] == theirs[:2]:
        return ours[2] > theirs[2]
    return (hit.fields["event_time"], ours) > (than.fields["event_time"], theirs)


def metadata_names(hits: Iterable[Hit], declared: Iterable[str]) -> set[str]:
    """Names of the metadata that these rows carry."""
    return {name for hit in hits for name in hit.fields} - set(declared)
