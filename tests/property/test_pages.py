"""Pages of one search: together they are one large page, and never show a document twice, whatever happens between."""

import asyncio
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from pipeline.query import Cursors, DirectEmbedder, SearchAnswer, Searcher, SearchService
from pipeline.query.answer import Result
from pipeline.telemetry.metrics import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, DOCUMENTS, Library


@dataclass
class Site:
    """Documents in a fake Milvus, and a service over them."""

    milvus: FakeMilvus = field(default_factory=FakeMilvus)

    def __post_init__(self) -> None:
        self.milvus.create_collection(DOCUMENTS)
        self.library = Library(self.milvus)
        self.offset = 0
        self.service = SearchService(
            Searcher(self.milvus, COLLECTION),
            DirectEmbedder(lambda texts: np.array([[1, 0]] * len(texts), np.float32)),
            QueryMetrics(CollectorRegistry()),
            cursors=Cursors(b"k" * 16, COLLECTION),
        )

    def put(self, doc_id: str, angles: list[int], day: int = 20) -> None:
        """Write the document's next version: a chunk at each angle."""
        for partition, rows in self.milvus.stored(COLLECTION).items():
            self.milvus.delete(COLLECTION, partition, [row["id"] for row in rows.values() if row["doc_id"] == doc_id])
        self.offset += 1
        for chunk, angle in enumerate(angles):
            self.library.put(doc_id, float(angle), f"2026-11-{day}", chunk=chunk, offset=self.offset)

    def ask(self, body: dict[str, object]) -> SearchAnswer:
        answer = asyncio.run(self.service.answer(body))
        assert isinstance(answer, SearchAnswer)
        return answer


CHUNKS = st.lists(st.integers(0, 89), min_size=1, max_size=4)
DOCUMENTS_OF_A_TEST = st.dictionaries(st.sampled_from([f"doc {number}" for number in range(20)]), CHUNKS, max_size=14)
LIMITS = st.lists(st.integers(1, 7), min_size=1, max_size=5)
GROUPS: list[dict[str, object]] = [{}, {"group_by": None}, {"group_size": 2}]
BODIES = st.tuples(
    st.sampled_from(GROUPS),
    st.fixed_dictionaries(
        {"query": st.just("q")},
        optional={"min_score": st.sampled_from([0.3, 0.9]), "time": st.just({"from": "2026-11-20"})},
    ),
).map(lambda parts: {**parts[0], **parts[1]})


def unique(results: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(result.doc_id for result in results))


def key(answer: SearchAnswer, *, grouped: bool) -> list[tuple[str, int]]:
    return [(result.doc_id, result.chunk if not grouped else 0) for result in answer.results]


@settings(deadline=None)
@given(DOCUMENTS_OF_A_TEST, LIMITS, BODIES)
def test_pages_of_any_sizes_are_one_large_page(
    documents: dict[str, list[int]], limits: list[int], body: dict[str, object]
) -> None:
    site = Site()
    with closing(site.service):
        for doc_id, angles in documents.items():
            site.put(doc_id, angles)
        everything = site.ask({**body, "limit": 200})
        assert everything.next_cursor is None
        answer = site.ask({**body, "limit": limits[0]})
        pages = [answer]
        while answer.next_cursor is not None:
            answer = site.ask({"cursor": answer.next_cursor, "limit": limits[len(pages) % len(limits)]})
            pages.append(answer)
            assert len(pages) < 100
        together = [result for page in pages for result in page.results]
        if "group_size" in body:  # how many chunks of a document are among the candidates depends on the limit
            assert unique(together) == unique(everything.results)
        else:
            assert together == list(everything.results)


CHANGES = st.lists(
    st.lists(
        st.tuples(st.sampled_from([f"doc {number}" for number in range(30)]), CHUNKS, st.integers(18, 22)), max_size=3
    ),
    max_size=6,
)


@settings(deadline=None)
@given(DOCUMENTS_OF_A_TEST, CHANGES, LIMITS, st.sampled_from(["doc_id", None]))
def test_changes_between_pages_repeat_and_hide_nothing(
    documents: dict[str, list[int]],
    changes: list[list[tuple[str, list[int], int]]],
    limits: list[int],
    group_by: str | None,
) -> None:
    site = Site()
    with closing(site.service):
        for doc_id, angles in documents.items():
            site.put(doc_id, angles)
        answer = site.ask({"query": "q", "limit": limits[0], "group_by": group_by})
        shown = key(answer, grouped=group_by is not None)
        pages = 1
        while answer.next_cursor is not None:
            for change in changes[pages - 1 : pages]:
                for doc_id, angles, day in change:
                    site.put(doc_id, angles, day)
            answer = site.ask({"cursor": answer.next_cursor, "limit": limits[pages % len(limits)]})
            shown += key(answer, grouped=group_by is not None)
            pages += 1
            assert pages < 200
        assert len(shown) == len(set(shown)), "something was shown twice"
        assert documents.keys() <= {doc_id for doc_id, _ in shown}, "a document that was always there was never shown"
