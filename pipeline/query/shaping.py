"""Results out of hits: what of a row is shown, and how. Pure."""

from collections.abc import Sequence

from pipeline.query.answer import Origin, Result
from pipeline.query.highlights import mark
from pipeline.query.partition_index import PartitionIndex
from pipeline.query.relevance import RelevanceScale
from pipeline.query.rerank.reranker import RERANK
from pipeline.query.terms import Terms
from pipeline.records import NOT_METADATA
from pipeline.store import DEFAULT_PARTITION, Hit
from pipeline.timestamps import format_time


def shaped(
    hit: Hit,
    fields: Sequence[str] | None,
    declared: frozenset[str],
    existing: PartitionIndex,
    *,
    terms: Terms | None,
    scale: RelevanceScale | None,
) -> Result:
    """A hit as a result, with the metadata named in `fields` (None: all). `terms`: those to highlight, if any.

    `scale`: None where the relevance of a vector is not known.
    """
    row = hit.fields
    highlights, passage = (None, None) if terms is None else mark(row["text"], terms)
    names = [name for name in (row if fields is None else fields) if name in row and name not in declared]
    return Result(
        id=hit.id,
        doc_id=row["doc_id"],
        text=row["text"],
        score=hit.score,
        scores=hit.legs,
        event_time=format_time(row["event_time"]),
        chunk=row["chunk"],
        partition=partition_of(row["event_time"], existing),
        source=Origin(row["kafka_topic"], row["kafka_partition"], row["kafka_offset"]),
        metadata={name: row[name] for name in names if name not in NOT_METADATA},
        highlights=highlights,
        passage=passage,
        relevance=_relevance(hit, scale),
    )


def _relevance(hit: Hit, scale: RelevanceScale | None) -> float | None:
    if (by_reranker := hit.legs.get(RERANK)) is not None:
        return by_reranker
    return None if scale is None or hit.cosine is None else scale.of(hit.cosine)


def partition_of(event_time: int, existing: PartitionIndex) -> str | None:
    """The Milvus partition that must hold a row of this time; None where two granularities overlap."""
    holding = existing.holding(event_time)
    if len(holding) > 1:
        return None
    return holding[0] if holding else DEFAULT_PARTITION
