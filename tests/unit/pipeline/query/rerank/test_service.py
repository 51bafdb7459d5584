"""Reranking through the service: pages, timing and metrics."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from pipeline.query import (
    Cursors,
    DirectEmbedder,
    RerankFailed,
    Reranking,
    SearchAnswer,
    Searcher,
    SearchService,
)
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.reranking import ScriptedReranker
from tests.support.rigs.search import COLLECTION, DOCUMENTS, Library


class Site:
    """A service over ten documents of two chunks, with a reranker."""

    def __init__(self, score: Callable[[Sequence[str]], list[float]] | None = None) -> None:
        api = FakeMilvus()
        api.create_collection(DOCUMENTS)
        library = Library(api)
        for number in range(10):
            for chunk in range(2):
                library.put(str(number), 5.0 * number + chunk, chunk=chunk)
        self.reranker = ScriptedReranker() if score is None else ScriptedReranker(score)
        self.registry = CollectorRegistry()
        self.service = SearchService(
            Searcher(api, COLLECTION, reranking=Reranking(self.reranker)),
            DirectEmbedder(lambda texts: np.array([[1, 0]] * len(texts), np.float32)),
            QueryMetrics(self.registry),
            cursors=Cursors(b"k" * 16, COLLECTION),
        )

    def ask(self, **body: Any) -> SearchAnswer:
        answer = asyncio.run(self.service.answer(body))
        assert isinstance(answer, SearchAnswer)
        return answer

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.service.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scores=st.lists(st.lists(st.floats(0, 1), min_size=20, max_size=20) | st.none(), min_size=12, max_size=12),
    limit=st.integers(1, 4),
    top=st.integers(1, 8),
    by_document=st.booleans(),
)
def test_pages_never_repeat_and_never_skip_whatever_the_reranker_does(
    scores: list[list[float] | None], limit: int, top: int, by_document: bool
) -> None:
    """Every page is reranked in another way, or fails to be."""
    pages = 0

    def score(texts: Sequence[str]) -> list[float]:
        found = scores[pages % len(scores)]
        if found is None:
            raise RerankFailed("failed")
        return found[: len(texts)]

    site = Site(score)
    group_by = "doc_id" if by_document else None
    answer = site.ask(query="q", rerank={"top": top}, limit=limit, group_by=group_by)
    shown = [(result.doc_id, 0 if by_document else result.chunk) for result in answer.results]
    while answer.next_cursor is not None:
        pages += 1
        assert pages < 30
        answer = site.ask(cursor=answer.next_cursor)
        shown += [(result.doc_id, 0 if by_document else result.chunk) for result in answer.results]
    site.service.close()
    assert sorted(shown) == sorted(
        (str(number), chunk) for number in range(10) for chunk in range(1 + (not by_document))
    )


def test_the_time_is_part_of_the_answer_and_of_the_metrics(site: Site) -> None:
    answer = site.ask(query="q", rerank=True)
    assert answer.timing_ms.rerank is not None
    assert 0 < answer.timing_ms.rerank <= answer.timing_ms.search
    assert site.ask(query="q").timing_ms.rerank is None
    assert site.sample("query_duration_seconds_count", phase="rerank") == 1
    site.reranker.failure = RerankFailed("overloaded")
    failed = site.ask(query="q", rerank=True)
    assert failed.timing_ms.rerank is not None
    assert site.sample("query_rerank_failures_total", reason="overloaded") == 1
    assert site.sample("query_rerank_failures_total", reason="timeout") == 0
