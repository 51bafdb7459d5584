"""The results of ranked hits: their rows read whole and shaped, within the time and the size of an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from pipeline.errors import Unavailable
from pipeline.query.answer import Result
from pipeline.query.candidates import CandidateSearch
from pipeline.query.partition_index import PartitionIndex
from pipeline.query.relevance import RelevanceScale
from pipeline.query.request.filter_expressions import FilterableFields
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.request.metadata_fields import MetadataNames
from pipeline.query.returned import digest
from pipeline.query.shaping import shaped
from pipeline.query.terms import terms_of
from pipeline.store import Hit


@dataclass(frozen=True, slots=True)
class ResultRows:
    """The results of each query, best first."""

    results: tuple[tuple[Result, ...], ...]
    digests: tuple[bytes, ...]
    """Of all of them, for the pages behind."""
    whole: bool
    """Whether there is one for every hit that is still stored."""


def read_results(
    search: CandidateSearch,
    ranked: Sequence[Sequence[Hit]],
    fields: FilterableFields,
    existing: PartitionIndex,
    names: MetadataNames,
    *,
    max_bytes: int,
    scale: RelevanceScale | None,
) -> ResultRows:
    """The results; `names` learns those of their metadata. `scale` as in `shaped`, for vectors of the queries' texts.

    Raises InvalidRequest where they have more than `max_bytes` as JSON, and Unavailable where there is none.
    """
    request = search.request
    terms = [terms_of(text) if request.highlights else None for text in request.queries]
    # What a vector of the client's own, or of a stored document, has in common with unrelated texts was not measured.
    known = scale if request.vector is None and any(request.queries) else None
    digests: list[bytes] = []
    results: list[list[Result]] = [[] for _ in ranked]
    size = 0
    whole = True
    try:
        for query, hit in search.whole(ranked):
            if request.highlights and digests and search.clock() >= search.deadline:
                whole = False  # many long texts take seconds
                break
            names.learn_row(hit.fields, fields.declared)
            result = shaped(hit, request.fields, frozenset(fields.declared), existing, terms=terms[query], scale=known)
            size += len(orjson.dumps(result))
            if size > max_bytes:
                raise _too_large(max_bytes)
            results[query].append(result)
            digests.append(digest(hit, group_by=request.group_by, one_version=search.one_version))
    except Unavailable:
        if not digests:
            raise
        whole = False
    return ResultRows(tuple(map(tuple, results)), tuple(digests), whole)


def _too_large(max_bytes: int) -> InvalidRequest:
    bound = f"makes an answer of more than {max_bytes:,} bytes"
    return InvalidRequest("/limit", f"{bound}; lower it, send fewer texts, or name the metadata wanted in fields")
