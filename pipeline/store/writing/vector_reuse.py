"""Reuse of stored vectors: a chunk whose text has not changed is not embedded again."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import NotFound, NotLoaded, RequestTooLarge
from pipeline.records import VECTOR_FIELD, Chunk
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.milvus.expressions import ids_expression
from pipeline.store.writing.llama_nodes import chunking_of
from pipeline.store.writing.protocol.decisions import DocumentHashes, Entry, WritePlan
from pipeline.store.writing.rows import row_ids

Vectors: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Text of a chunk -> its vector, float32 of shape (dimension,)."""

_IDS_PER_QUERY = 1000


def stored_vectors(
    api: MilvusApi, collection: str, plan: WritePlan, chunks: Sequence[Sequence[Chunk]], fingerprint: str
) -> list[Vectors]:
    """The vectors of each document's stored version, read only where texts are likely the same.

    A vector depends on its text and the collection's one model only, so a row that is stale or about to be replaced
    serves as well. Raises Unavailable.
    """
    vectors: list[dict[str, NDArray[np.float32]]] = [{} for _ in chunks]
    by_partition: dict[str, dict[str, int]] = {}
    chunking = chunking_of(fingerprint)
    for number, (put, document) in enumerate(zip(plan.to_embed, chunks, strict=True)):
        entry = plan.stored.get(put.key)
        if (
            entry is None
            or chunking_of(entry.fingerprint) != chunking
            or not _promising(entry, plan.hashes[put.key], document)
        ):
            continue
        for partition, count in entry.footprint.items():
            ids = row_ids(*put.key, partition, range(count))
            by_partition.setdefault(partition, {}).update(dict.fromkeys(ids, number))
    for partition, numbers in by_partition.items():
        for identifier, text, vector in _rows(api, collection, partition, numbers):
            vectors[numbers[identifier]][text] = vector
    return list(vectors)


def _promising(entry: Entry, hashes: DocumentHashes, document: Sequence[Chunk]) -> bool:
    """Whether some text may be the same: if a short text has changed, its only chunk has."""
    return entry.content_hash == hashes.content_hash or max(len(document), *entry.footprint.values(), 1) > 1


def _rows(
    api: MilvusApi, collection: str, partition: str, ids: Mapping[str, int]
) -> Iterator[tuple[str, str, NDArray[np.float32]]]:
    remaining = iter(ids)
    while page := list(islice(remaining, _IDS_PER_QUERY)):
        try:
            rows = _page(api, collection, partition, page)
        except (NotFound, NotLoaded):
            return  # dropped or released since: the chunks are embedded again
        for row in rows:
            yield row["id"], row["text"], row[VECTOR_FIELD]


def _page(api: MilvusApi, collection: str, partition: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Read these rows, in parts where the answer would be too large for the server."""
    try:
        return api.query(collection, ids_expression(ids), ["id", "text", VECTOR_FIELD], partitions=[partition])
    except RequestTooLarge:
        if len(ids) == 1:
            return []  # it is embedded again
    middle = len(ids) // 2
    return [row for half in (ids[:middle], ids[middle:]) for row in _page(api, collection, partition, half)]
