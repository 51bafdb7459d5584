"""Retrievers: each finds candidate rows for the texts of a request in its own way."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.errors import NotLoaded, RequestRefused, Unavailable
from pipeline.query.fusion import ID, Fusion, fuse
from pipeline.query.search_parameters import DEFAULT_PARAMETERS, SearchParameters
from pipeline.records import SPARSE_FIELD, VECTOR_FIELD
from pipeline.store import CollectionInfo, Hit, MilvusApi, VectorSearch


@dataclass(frozen=True, slots=True)
class Queries:
    """The texts of a request and their vectors; a retriever uses what it searches by."""

    texts: Sequence[str]
    vectors: NDArray[np.float32] | None
    """Shape (len(texts), dimension), finite, none of them zero; None where only words are searched."""

    def each(self) -> Iterator["Queries"]:
        """Every text by itself."""
        for number, text in enumerate(self.texts):
            yield Queries([text], None if self.vectors is None else self.vectors[number : number + 1])


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
    consistency: Mapping[str, Any] = field(default_factory=dict)
    """Which writes must be seen, as `as_of` says it; empty: what was visible some 100 ms ago."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What a retriever found."""

    hits: list[list[Hit]]
    """The best rows of each query, best first; a higher score is better."""
    missing: tuple[str, ...] = ()
    """Names of the legs that Milvus did not answer: what only those find is not there."""
    legs: Mapping[str, list[list[Hit]]] = field(default_factory=dict)
    """Where the hits are fused: what each leg found, in its own order."""


class Retriever(Protocol):
    """One way to find rows."""

    def retrieve(self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float) -> Retrieved:
        """The best rows of each query. Raises what `MilvusApi.search` raises."""


class DenseRetriever(Retriever):
    """Finds the rows whose vectors are nearest to the vectors of the texts."""

    def __init__(self, api: MilvusApi, parameters: SearchParameters = DEFAULT_PARAMETERS) -> None:
        self._api = api
        self._parameters = parameters

    @override
    def retrieve(self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float) -> Retrieved:
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
                params=self._parameters.of(index, rows.limit),
                timeout_s=timeout_s,
                **rows.consistency,
            ),
        )
        if index.metric == "COSINE":
            return Retrieved([[replace(hit, cosine=hit.score) for hit in hits] for hits in hits_of_queries])
        if index.metric != "L2":
            return Retrieved(hits_of_queries)
        return Retrieved(
            [
                [replace(hit, score=similarity_score(index.metric, hit.score)) for hit in hits]
                for hits in hits_of_queries
            ]
        )


class KeywordRetriever(Retriever):
    """Finds the rows whose text has the words of the query, the rarer the better (BM25, by the server)."""

    def __init__(self, api: MilvusApi) -> None:
        self._api = api
        self._sign = -1.0 if api.server.capabilities.bm25_scores_are_negative else 1.0

    @override
    def retrieve(self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float) -> Retrieved:
        hits_of_queries = self._api.search(
            collection.name,
            VectorSearch(
                queries.texts,
                rows.limit,
                SPARSE_FIELD,
                expression=rows.expression,
                fields=rows.fields,
                partitions=rows.partitions,
                timeout_s=timeout_s,
                **rows.consistency,
            ),
        )
        return Retrieved([[replace(hit, score=self._sign * hit.score) for hit in hits] for hits in hits_of_queries])


class HybridRetriever(Retriever):
    """Finds rows by meaning, by words and by ids, and fuses the orders."""

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
    def retrieve(self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float) -> Retrieved:
        """Raises what the first leg with a weight raises, and NotLoaded of any: the search is then planned again."""
        deadline = self._clock() + timeout_s
        fusions = [self._fusion(text) for text in queries.texts]
        first, *later = [name for name in self._legs if any(fusion.weight(name) for fusion in fusions)]
        hits = {first: self._legs[first].retrieve(collection, queries, rows, timeout_s).hits}
        missing = []
        for name in later:
            try:
                hits[name] = self._later(self._legs[name], collection, queries, rows, deadline)
            except NotLoaded:
                raise
            except Unavailable:
                missing.append(name)
        fused = [
            # Where no id is named, the score of a row that is the first of both orders is 1.
            fuse({name: found[number] for name, found in hits.items() if name != ID or found[number]}, fusion)
            for number, fusion in enumerate(fusions)
        ]
        return Retrieved(fused, tuple(missing), hits)

    def _later(
        self, leg: Retriever, collection: CollectionInfo, queries: Queries, rows: RowSelection, deadline: float
    ) -> list[list[Hit]]:
        """The hits of a leg after the first: none for a text that Milvus refuses, as one without words.

        It has half of the time that is left, so that what the first found can still be read whole.
        """
        left_s = (deadline - self._clock()) / 2
        if left_s <= 0:
            raise Unavailable("no time is left")
        try:
            return leg.retrieve(collection, queries, rows, left_s).hits
        except RequestRefused:
            if len(queries.texts) == 1:
                return [[]]
        return [hits for one in queries.each() for hits in self._later(leg, collection, one, rows, deadline)]


def similarity_score(metric: str, score: float) -> float:
    """A score where higher is always nearer: COSINE and IP unchanged, an L2 distance d as 1 / (1 + d)."""
    return 1.0 / (1.0 + score) if metric == "L2" else score


def has_keyword_index(api: MilvusApi, info: CollectionInfo) -> bool:
    """Whether the server fills an index of words for the collection."""
    index = info.indexes.get(SPARSE_FIELD)
    return api.server.capabilities.bm25 and index is not None and index.metric == "BM25"
