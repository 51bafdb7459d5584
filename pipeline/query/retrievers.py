"""Retrievers: each finds candidate rows for the texts of a request in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.records import VECTOR_FIELD
from pipeline.store import CollectionInfo, Hit, MilvusApi, VectorSearch, search_params


@dataclass(frozen=True, slots=True)
class Queries:
    """The texts of a request and their vectors; a retriever uses what it searches by."""

    texts: Sequence[str]
    vectors: NDArray[np.float32]
    """Shape (len(texts), dimension), finite, none of them zero."""

    def first(self) -> "Queries":
        """The first of them alone."""
        return Queries(self.texts[:1], self.vectors[:1])


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
            [Hit(hit.id, similarity_score(index.metric, hit.score), hit.fields) for hit in hits]
            for hits in hits_of_queries
        ]


def similarity_score(metric: str, score: float) -> float:
    """A score where higher is always nearer: COSINE and IP unchanged, an L2 distance d as 1 / (1 + d)."""
    return 1.0 / (1.0 + score) if metric == "L2" else score
