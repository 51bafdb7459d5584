"""Relevance: bounded, monotone in the cosine, and only where it is known."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.embedding import UnrelatedSimilarity
from pipeline.query import RelevanceScale, Reranking, Searcher, SearchResult, parse_request
from pipeline.store import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import ServerInfo
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.reranking import ScriptedReranker
from tests.support.rigs.search import COLLECTION, EAST, Library

COSINES = st.floats(-1, 1)
SCALE = RelevanceScale(UnrelatedSimilarity(usual=0.1, rare=0.4))


@given(st.tuples(COSINES, COSINES), st.tuples(COSINES, COSINES))
def test_a_relevance_is_bounded_and_grows_with_the_cosine(
    unrelated: tuple[float, float], cosines: tuple[float, float]
) -> None:
    usual, rare = sorted(unrelated)
    assume(rare - usual > 1e-4)
    scale = RelevanceScale(UnrelatedSimilarity(usual, rare))
    lower, higher = (scale.of(cosine) for cosine in sorted(cosines))
    assert 0 <= lower <= higher <= 1
    assert scale.of(rare) == 0.5
    assert scale.of(usual) == pytest.approx(0.018, abs=1e-3)


Made = Callable[..., Searcher]


@pytest.fixture
def make() -> Made:
    def searcher(
        metric: str = "COSINE", scale: RelevanceScale | None = SCALE, reranking: Reranking | None = None
    ) -> Searcher:
        api = FakeMilvus(server=ServerInfo("v2.5.27", (2, 5, 27), lite=False))
        index = IndexSettings("FLAT", metric)
        api.create_collection(documents_spec(COLLECTION, dimension=2, index=index, stamp={"name": "t"}, bm25=True))
        library = Library(api)
        library.put("near", 0.0, text="nothing of it")
        library.put("far", 90.0, text="fox")
        return Searcher(api, COLLECTION, scale=scale, reranking=reranking)

    return searcher


def ask(searcher: Searcher, **body: object) -> SearchResult:
    request = parse_request({"query": "fox", **body})
    return searcher.search(request, None if request.mode == "keyword" else EAST, 5.0, now_ms=0)


def relevances(found: SearchResult) -> dict[str, float | None]:
    return {result.doc_id: result.relevance for result in found.results[0]}


def test_results_by_meaning_have_one(make: Made) -> None:
    expected = {"near": pytest.approx(SCALE.of(1.0)), "far": pytest.approx(SCALE.of(0.0))}
    assert relevances(ask(make(), mode="dense")) == expected
    assert relevances(ask(make(), mode="hybrid")) == expected
    assert relevances(ask(make(), mode="dense", recency={"half_life": "1ms"})) == expected, "whatever the age"


def test_what_only_words_found_has_none(make: Made) -> None:
    assert relevances(ask(make(), mode="keyword")) == {"far": None}
    by_words = ask(make(), mode="hybrid", fusion={"dense": 0, "keyword": 1})
    assert relevances(by_words) == {"far": None}


def test_unknown_scales_have_none(make: Made) -> None:
    assert set(relevances(ask(make(scale=None), mode="dense")).values()) == {None}
    assert set(relevances(ask(make(metric="L2"), mode="dense")).values()) == {None}
    assert set(relevances(ask(make(metric="IP"), mode="dense")).values()) == {None}


def test_vectors_of_the_clients_own_have_none(make: Made) -> None:
    assert set(relevances(ask(make(), mode="dense", vector=[1.0, 0.0])).values()) == {None}
    request = parse_request({"vector": [1.0, 0.0]})
    found = make().search(request, np.array([[1, 0]], np.float32), 5.0, now_ms=0)
    assert set(relevances(found).values()) == {None}


def test_reranked_results_have_the_rerankers(make: Made) -> None:
    reranking = Reranking(ScriptedReranker(lambda texts: [0.25] * len(texts)))
    for mode in ("dense", "keyword", "hybrid"):
        found = ask(make(reranking=reranking), mode=mode, rerank=True)
        assert set(relevances(found).values()) == {0.25}
