"""Vectors that stand in Milvus already beside the same text: the model is not asked again for what did not change."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NotFound, NotLoaded
from pipeline.records import Chunk
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.writing.protocol import DocumentHashes, Entry, Footprint, Key, WritePlan
from pipeline.store.writing.rows import row_ids

Vectors: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Text of a chunk -> its vector, float32 of shape (dimension,)."""

_IDS_PER_QUERY = 1000


def stored_vectors(
    api: MilvusApi, collection: str, plan: WritePlan, chunks: Sequence[Sequence[Chunk]], fingerprint: str
) -> list[Vectors]:
    """For each document to embed: the vectors stored of its earlier version, as far as texts are likely the same.

    A vector belongs to its text and the collection's one model, so a row that is stale or about to be replaced
    serves as well. Raises Unavailable.
    """
    found: list[dict[str, NDArray[np.float32]]] = [{} for _ in chunks]
    by_partition: dict[str, dict[str, int]] = {}
    for number, (put, document) in enumerate(zip(plan.to_embed, chunks, strict=True)):
        entry = plan.stored.get(put.key)
        if entry is not None and entry.fingerprint == fingerprint and _promising(entry, plan.facts[put.key], document):
            for partition, identifier in _ids(put.key, entry.footprint):
                by_partition.setdefault(partition, {})[identifier] = number
    for partition, numbers in by_partition.items():
        for identifier, text, vector in _rows(api, collection, partition, numbers):
            found[numbers[identifier]][text] = vector
    return list(found)


def _promising(entry: Entry, facts: DocumentHashes, document: Sequence[Chunk]) -> bool:
    """A short text that changed has nothing in common with what is stored."""
    return entry.content_hash == facts.content_hash or max(len(document), *entry.footprint.values(), 1) > 1


def _ids(key: Key, footprint: Footprint) -> Iterator[tuple[str, str]]:
    for partition, chunks in footprint.items():
        for identifier in row_ids(*key, partition, range(chunks)):
            yield partition, identifier


def _rows(
    api: MilvusApi, collection: str, partition: str, ids: Mapping[str, int]
) -> Iterator[tuple[str, str, NDArray[np.float32]]]:
    waiting = iter(ids)
    while some := list(islice(waiting, _IDS_PER_QUERY)):
        expression = 'id in ["' + '","'.join(some) + '"]'
        try:
            rows = api.query(collection, expression, ["id", "text", "vector"], partitions=[partition])
        except (NotFound, NotLoaded):
            return  # dropped or released since: then the model is asked
        for row in rows:
            yield row["id"], row["text"], row["vector"]
