"""Several chunks of a document: the limit counts documents, whatever is fetched and whatever the ledger drops."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.query import Searcher
from pipeline.query.ranking import best, rank, results_in
from pipeline.store import Hit
from tests.support.examples import examples
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import Library, doc_ids, eq, find, searches


def chunks(searcher: Searcher, **body: Any) -> list[tuple[str, int]]:
    return [(result.doc_id, result.chunk) for result in find(searcher, **body).results[0]]


def test_documents_by_their_best_chunk_and_their_further_chunks_after_it(searcher: Searcher, library: Library) -> None:
    for chunk, angle in enumerate([50.0, 10.0, 30.0, 60.0]):
        library.put("a", angle, chunk=chunk)
    library.put("b", 20.0)
    library.put("c", 70.0)
    assert chunks(searcher, group_size=3, limit=2) == [("a", 1), ("a", 2), ("a", 0), ("b", 0)]
    assert chunks(searcher, group_size=10) == [("a", 1), ("a", 2), ("a", 0), ("a", 3), ("b", 0), ("c", 0)]
    assert chunks(searcher, limit=2) == [("a", 1), ("b", 0)]


def test_more_is_fetched_until_there_are_enough_documents(
    searcher: Searcher, library: Library, milvus: FakeMilvus
) -> None:
    for chunk in range(40):
        library.put("long", chunk / 10, chunk=chunk)
    library.put("b", 50.0)
    assert chunks(searcher, limit=2, group_size=2) == [("long", 0), ("long", 1), ("b", 0)]
    assert searches(milvus) == 2  # 16 and 64 rows


def test_a_document_of_an_older_version_gives_its_place_to_the_next(searcher: Searcher, library: Library) -> None:
    for chunk in range(2):
        library.put("old", chunk, chunk=chunk, offset=5, lang="en")
        library.put("b", 10.0 + chunk, chunk=chunk, lang="en")
        library.put("c", 20.0 + chunk, chunk=chunk, lang="en")
    library.enter("old", 6)
    body: dict[str, Any] = {"filter": eq("lang", "en"), "group_size": 2}
    assert chunks(searcher, limit=2, **body) == [("b", 0), ("b", 1), ("c", 0), ("c", 1)]
    assert chunks(searcher, limit=1, **body) == [("b", 0), ("b", 1)]


def test_documents_of_two_tenants_are_two_groups(searcher: Searcher, library: Library) -> None:
    for chunk in range(2):
        library.put("a", 1.0 + chunk, chunk=chunk, offset=5, tenant="one")
        library.put("a", 1.5 + chunk, chunk=chunk, offset=6, tenant="two")
    found = find(searcher, group_size=2, limit=2)
    assert [result.source.offset for result in found.results[0]] == [5, 5, 6, 6]
    assert doc_ids(find(searcher, group_size=2, limit=1)) == ["a", "a"]


HITS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([None, "one"]), st.integers(0, 2)), max_size=30).map(
    lambda found: [
        Hit(
            str(number),
            -float(number),
            {
                "doc_id": doc_id,
                "tenant": tenant,
                "event_time": 0,
                "kafka_topic": "t",
                "kafka_partition": 0,
                "kafka_offset": offset,
            },
        )
        for number, (doc_id, tenant, offset) in enumerate(found)
    ]
)


@examples(times=2)
@given(HITS, st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_groups_are_the_best_documents_with_their_best_chunks(
    hits: list[Hit], limit: int, size: int, one_version: bool
) -> None:
    ranked = rank(hits, group_by="doc_id", one_version=one_version, limit=limit, group_size=size)
    first = rank(hits, group_by="doc_id", one_version=one_version, limit=limit)
    alone = rank(hits, group_by=None, one_version=one_version, limit=len(hits))
    groups: dict[tuple[Any, Any], list[Hit]] = {}
    for hit in ranked:
        groups.setdefault((hit.fields["tenant"], hit.fields["doc_id"]), []).append(hit)
    assert [hit for group in groups.values() for hit in group] == ranked, "a document's chunks are together"
    assert [group[0] for group in groups.values()] == first, "one chunk of each is what a group of one has"
    assert results_in(ranked, "doc_id") == len(groups) <= limit
    for key, group in groups.items():
        of_document = [hit for hit in alone if (hit.fields["tenant"], hit.fields["doc_id"]) == key]
        assert group == of_document[:size]
    assert best(ranked, group_by="doc_id", limit=limit) == ranked
    assert best(ranked, group_by="doc_id", limit=1) == next(iter(groups.values()), [])
    assert best(ranked, group_by=None, limit=1) == ranked[:1]


@pytest.mark.parametrize("size", [1, 3])
def test_nothing_found_is_no_group(searcher: Searcher, size: int) -> None:
    assert find(searcher, group_size=size).results == ((),)
