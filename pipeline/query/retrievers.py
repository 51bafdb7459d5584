"""Retrievers: each finds candidate rows for the texts of a request in its own way."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.query.fusion import Fusion, fuse
from pipeline.records import SPARSE_FIELD, VECTOR_FIELD
from pipeline.store import CollectionInfo, Hit, MilvusApi, VectorSearch, search_params


@dataclass(frozen=True, slots=True)
class Queries:
    """The texts of a request and their vectors; a retriever uses what it searches by."""

    texts: Sequence[str]
    vectors: NDArray[np.float32] | None
    """Shape (len(texts), dimension), finite, none of them zero; None where only words are searched."""


@dataclass(frozen=True, slots=True)
class RowSelection:
    """Which rows a retriever may return, and which fields of them."""

    limit: int
    """Most rows for each query."""
    expression: str
    """Milvus's; empty: every row."""
    fields: Sequence[str]
    partitions: Sequence[str] | None
    """Names of Milvus partitions; None: the whole collection."""


class Retriever(Protocol):
    """One way to find rows."""

    def retrieve(
        self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float
    ) -> list[list[Hit]]:
        """The best rows of each query, best first; a higher score is better. Raises what `MilvusApi.search` raises."""


class DenseRetriever(Retriever):
    """Finds the rows whose vectors are nearest to the vectors of the texts."""

    def __init__(self, api: MilvusApi) -> None:
        self._api = api

    @override
    def retrieve(
        self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float
    ) -> list[list[Hit]]:
        assert queries.vectors is not None  # noqa: S101 - the service embeds for this retriever
        index = collection.indexes[VECTOR_FIELD]
        hits_of_queries = self._api.search(
            collection.name,
            VectorSearch(
                queries.vectors,
                rows.limit,
                expression=rows.expression,
                fields=rows.fields,
                partitions=rows.partitions,
                params=search_params(index, rows.limit),
                timeout_s=timeout_s,
            ),
        )
        if index.metric != "L2":
            return hits_of_queries
        return [
            [replace(hit, score=similarity_score(index.metric, hit.score)) for hit in hits] for hits in hits_of_queries
        ]


class KeywordRetriever(Retriever):
    """Finds the rows whose text has the words of the query, the rarer the better (BM25, by the server)."""

    def __init__(self, api: MilvusApi) -> None:
        self._api = api
        self._sign = -1.0 if api.server.capabilities.bm25_scores_are_negative else 1.0

    @override
    def retrieve(
        self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float
    ) -> list[list[Hit]]:
        found = self._api.search(
            collection.name,
            VectorSearch(
                queries.texts,
                rows.limit,
                SPARSE_FIELD,
                expression=rows.expression,
                fields=rows.fields,
                partitions=rows.partitions,
                timeout_s=timeout_s,
            ),
        )
        return [[replace(hit, score=self._sign * hit.score) for hit in hits] for hits in found]


class HybridRetriever(Retriever):
    """Finds rows by meaning and by words, and fuses both orders."""

    def __init__(
        self,
        legs: Mapping[str, Retriever],
        fusion: Callable[[str], Fusion],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fusion`: that of a query's text."""
        self._legs = legs
        self._fusion = fusion
        self._clock = clock

    @override
    def retrieve(
        self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float
    ) -> list[list[Hit]]:
        deadline = self._clock() + timeout_s
        found = {
            name: leg.retrieve(collection, queries, rows, max(deadline - self._clock(), 0.0))
            for name, leg in self._legs.items()
        }
        return [
            fuse({name: hits[number] for name, hits in found.items()}, self._fusion(text))
            for number, text in enumerate(queries.texts)
        ]


def similarity_score(metric: str, score: float) -> float:
    """A score where higher is always nearer: COSINE and IP unchanged, an L2 distance d as 1 / (1 + d)."""
    return 1.0 / (1.0 + score) if metric == "L2" else score
