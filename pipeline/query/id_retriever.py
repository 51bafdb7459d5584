"""The retriever of documents by their ids, where a query names some."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from typing_extensions import override

from pipeline.errors import NotLoaded, RequestRefused, Unavailable
from pipeline.query.fusion import ID, KEYWORD
from pipeline.query.retrievers import Queries, Retrieved, Retriever, RowSelection
from pipeline.records import MAX_DOC_ID_BYTES
from pipeline.store import CollectionInfo, Hit, MilvusApi, literal

MAX_IDS = 8
"""Most ids that are looked up for one query."""
_ROWS_PER_ID = 4
"""Tenants may have the same id, and in append mode several records."""
_MOST_ROWS = 128
_EDGES = "\"'`“”‘’„«»「」()[]{}<>,;:.!?…。、，！？；：（）"
_NUMBER = re.compile(r"[\d.,]+")
_LONG_NUMBER = re.compile(r"\d{6,}")
_LIKE_AN_ID = re.compile(r"\d|\w[-_/:.#@+=~|]+\w")
"""A digit, as in E1234 and x86; or words joined, as in report.pdf, a/b and ticket-a."""


class IdRetriever(Retriever):
    """Finds the first chunk of each document whose id is in the query, by one read; needs no index of words."""

    def __init__(self, api: MilvusApi) -> None:
        self._api = api

    @override
    def retrieve(self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float) -> Retrieved:
        ids_of_queries = [ids_in(text) for text in queries.texts]
        wanted = list(dict.fromkeys(identifier for ids in ids_of_queries for identifier in ids))
        if not wanted:
            return Retrieved([[] for _ in queries.texts])
        among = f"doc_id in [{', '.join(map(literal, wanted))}] and chunk == 0"
        stored = self._api.query(
            collection.name,
            f"({rows.expression}) and {among}" if rows.expression else among,
            list(dict.fromkeys((*rows.fields, "id", "doc_id", "event_time"))),
            partitions=rows.partitions,
            limit=min(_ROWS_PER_ID * len(wanted), _MOST_ROWS),
            timeout=timeout_s,
            **rows.consistency,
        )
        return Retrieved([_hits(ids, stored)[: rows.limit] for ids in ids_of_queries])


class IdsFirst(Retriever):
    """Puts documents whose ids are in the query before what another retriever finds, with its highest score."""

    def __init__(
        self, retriever: Retriever, ids: IdRetriever, clock: Callable[[], float] = time.monotonic, name: str = KEYWORD
    ) -> None:
        """`name`: that of the other retriever's score."""
        self._retriever = retriever
        self._ids = ids
        self._clock = clock
        self._name = name

    @override
    def retrieve(self, collection: CollectionInfo, queries: Queries, rows: RowSelection, timeout_s: float) -> Retrieved:
        """Raises what the other retriever raises, and NotLoaded: the search is then planned again."""
        deadline = self._clock() + timeout_s
        found = self._retriever.retrieve(collection, queries, rows, timeout_s)
        if not any(map(ids_in, queries.texts)):
            return found
        left_s = (deadline - self._clock()) / 2
        try:
            if left_s <= 0:
                raise Unavailable("no time is left")
            by_id = self._ids.retrieve(collection, queries, rows, left_s).hits
        except NotLoaded:
            raise
        except Unavailable:
            return replace(found, missing=(*found.missing, ID))
        except RequestRefused:
            return found
        pairs = zip(by_id, found.hits, strict=True)
        hits = [self._first(ids, hits)[: rows.limit] for ids, hits in pairs]
        return replace(found, hits=hits, legs={self._name: found.hits, ID: by_id})

    def _first(self, ids: Sequence[Hit], hits: Sequence[Hit]) -> list[Hit]:
        best = hits[0].score if hits else 1.0
        scores = {hit.id: hit.score for hit in hits}
        first = [
            replace(hit, score=best, legs={ID: hit.score, **({self._name: scores[hit.id]} if hit.id in scores else {})})
            for hit in ids
        ]
        named = {hit.id for hit in first}
        return [*first, *(hit for hit in hits if hit.id not in named)]


def ids_in(text: str) -> list[str]:
    """What in a query may be the id of a document, at most 8 texts, the likeliest first.

    1. A query of one word: the word, whatever it looks like.
    2. Otherwise the words that look like ids; a number of fewer than six digits does not. With such a word, before it,
       the whole query: an id may have spaces.
    3. Each with and without the punctuation around it.
    """
    words = text.split()
    named = words if len(words) == 1 else [word for word in words if _looks_like_id(word.strip(_EDGES))]
    if not named:
        return []
    forms = (form for part in (text.strip(), *named) for form in (part, part.strip(_EDGES)))
    return [form for form in dict.fromkeys(forms) if _may_be_stored(form)][:MAX_IDS]


def _looks_like_id(word: str) -> bool:
    if _NUMBER.fullmatch(word):
        return _LONG_NUMBER.fullmatch(word) is not None
    return _LIKE_AN_ID.search(word) is not None


def _may_be_stored(identifier: str) -> bool:
    return 0 < len(identifier.encode("utf-8", "replace")) <= MAX_DOC_ID_BYTES


def _hits(ids: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[Hit]:
    """The rows of these ids in the order of the ids, of each the newest first."""
    places = {identifier: place for place, identifier in enumerate(ids)}
    named = [row for row in rows if row["doc_id"] in places]
    named.sort(key=lambda row: (places[row["doc_id"]], -row["event_time"], row["id"]))
    return [Hit(row["id"], 1.0, {name: value for name, value in row.items() if name != "id"}) for row in named]
