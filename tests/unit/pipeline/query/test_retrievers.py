"""The retriever by vectors: scores of every metric in one direction."""

import pytest

from pipeline.query.retrievers import DenseRetriever, Queries, RowSelection, similarity_score
from pipeline.store import IndexSettings
from pipeline.store.collection.schema import documents_spec
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, EAST, Library


def test_nearer_is_higher_in_every_metric() -> None:
    assert similarity_score("COSINE", 0.4) == 0.4
    assert similarity_score("IP", -3.0) == -3.0
    assert similarity_score("L2", 0.0) == 1.0
    assert similarity_score("L2", 0.5) > similarity_score("L2", 0.6) > 0


@pytest.mark.parametrize("metric", ["COSINE", "IP", "L2"])
def test_the_best_row_comes_first_with_the_highest_score(metric: str) -> None:
    milvus = FakeMilvus()
    index = IndexSettings("FLAT", metric)
    milvus.create_collection(documents_spec(COLLECTION, dimension=2, index=index, stamp={"name": "test"}, bm25=False))
    library = Library(milvus)
    for angle in (60.0, 0.0, 30.0):
        library.put(f"{angle:.0f} degrees", angle)
    info = milvus.describe(COLLECTION)
    assert info is not None
    rows = RowSelection(2, "", ("doc_id",), None)
    (hits,) = DenseRetriever(milvus).retrieve(info, Queries(["q"], EAST), rows, 1.0).hits
    assert [hit.fields["doc_id"] for hit in hits] == ["0 degrees", "30 degrees"]
    assert hits[0].score == pytest.approx(1.0)
    assert hits[0].score > hits[1].score > 0
