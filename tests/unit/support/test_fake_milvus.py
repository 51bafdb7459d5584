"""What the fake Milvus is trusted for by the writer's tests and no contract suite can ask of every server."""

import random
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.errors import NotFound, OutcomeUnknown, RowsRefused, Unavailable
from pipeline.store.milvus.api import CollectionSpec, FieldInfo, IndexInfo, MilvusServerApi, VectorSearch
from tests.support.fakes.milvus import FakeMilvus
from tests.support.fakes.milvus_expressions import parse

SPEC = CollectionSpec(
    "docs",
    "",
    (
        FieldInfo("id", "VARCHAR", primary=True, max_length=64),
        FieldInfo("text", "VARCHAR", max_length=10),
        FieldInfo("vector", "FLOAT_VECTOR", dimension=2),
    ),
    dynamic=True,
    indexes={"vector": IndexInfo("FLAT", "L2", {})},
)


def row(identifier: str, text: str = "t", **more: object) -> dict[str, object]:
    return {"id": identifier, "text": text, "vector": np.ones(2, dtype=np.float32), **more}


@pytest.fixture
def fake() -> Iterator[FakeMilvus]:
    fake = FakeMilvus(staleness_writes=1)
    fake.create_collection(SPEC)
    for name in ("a", "b"):
        fake.create_partition("docs", name)
    yield fake
    fake.close()


def test_it_is_a_server(fake: FakeMilvus) -> None:
    api: MilvusServerApi = fake
    assert api.server.number == (2, 3, 5)


def test_an_upsert_replaces_only_in_the_partition_it_names_and_a_query_then_answers_either_copy(
    fake: FakeMilvus,
) -> None:
    fake.upsert("docs", "a", [row("1", "old")])
    fake.upsert("docs", "b", [row("1", "new")])
    assert fake.count("docs") == 2
    answers = {fake.query("docs", 'id in ["1"]', ["text"], strong=True)[0]["text"] for _ in range(50)}
    assert answers == {"old", "new"}


def test_one_bad_row_refuses_the_request_and_bytes_count(fake: FakeMilvus) -> None:
    with pytest.raises(RowsRefused):
        fake.upsert("docs", "a", [row("1"), row("2", "é" * 6)])
    with pytest.raises(RowsRefused):
        fake.upsert("docs", "a", [row("1") | {"vector": np.array([1, np.nan], dtype=np.float32)}])
    assert fake.count("docs") == 0


def test_a_read_that_is_not_strong_lags_behind(fake: FakeMilvus) -> None:
    fake.upsert("docs", "a", [row("1", "old")])
    fake.upsert("docs", "a", [row("1", "new"), row("2")])
    assert [found["text"] for found in fake.query("docs", 'id in ["1", "2"]', ["text"])] == ["old"]
    assert len(fake.query("docs", 'id in ["1", "2"]', ["text"], strong=True)) == 2
    instant = fake.instant()
    fake.delete("docs", "a", ["1"])
    assert len(fake.query("docs", 'id in ["1", "2"]', ["text"])) == 2
    assert len(fake.query("docs", 'id in ["1", "2"]', ["text"], since=instant)) == 2
    assert len(fake.query("docs", 'id in ["1", "2"]', ["text"], since=fake.instant())) == 1


def test_faults(fake: FakeMilvus) -> None:
    fake.fail_next("upsert", OutcomeUnknown("lost"), applied=True)
    with pytest.raises(OutcomeUnknown):
        fake.upsert("docs", "a", [row("1")])
    assert fake.count("docs") == 1
    fake.fail_next("upsert", Unavailable("away"))
    with pytest.raises(Unavailable):
        fake.upsert("docs", "a", [row("2")])
    assert fake.count("docs") == 1
    with pytest.raises(NotFound):
        fake.delete("docs", "c", ["1"])
    fake.down = True
    with pytest.raises(Unavailable):
        fake.count("docs")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('id in ["1", "2"]', True),
        ('id not in ["1", "2"]', False),
        ('doc_id == "a\\"b"', True),
        ("event_time >= 5 and event_time < 6", True),
        ('not (lang == "en")', False),
        ('$meta["lang"] == "de" or (event_time > 4 and lang == "en")', True),
        ("exists $meta[\"lang\"] and not (exists $meta['none'])", True),
        ('none != "x"', True),
        ('none < "x"', False),
        ("lang > 1", False),
        ('nested["deep"] == true', True),
    ],
)
def test_expressions(expression: str, expected: bool) -> None:
    stored = {"id": "1", "doc_id": 'a"b', "event_time": 5, "lang": "en", "nested": {"deep": True}}
    assert parse(expression)(stored) is expected


@pytest.mark.parametrize("expression", ["id in", "id == ", "(id == 1", "id == 1 2", "id = 1", 'id == "a" drop'])
def test_expressions_that_cannot_be_read(expression: str) -> None:
    with pytest.raises(ValueError, match="cannot parse"):
        parse(expression)


def test_nearest_first_by_each_metric() -> None:
    for metric, expected in (("L2", "1"), ("IP", "2"), ("COSINE", "3")):
        fake = FakeMilvus()
        fake.create_collection(
            CollectionSpec("m", "", SPEC.fields, dynamic=True, indexes={"vector": IndexInfo("FLAT", metric, {})})
        )
        vectors = {"1": [1.0, 0.2], "2": [9.0, 9.0], "3": [0.1, 0.0]}
        rows = [row(name) | {"vector": np.array(vector, dtype=np.float32)} for name, vector in vectors.items()]
        random.Random(1).shuffle(rows)
        fake.upsert("m", None, rows)
        hits = fake.search("m", VectorSearch(np.array([[1.0, 0.0]], dtype=np.float32), 3, fields=["text"]))[0]
        assert hits[0].id == expected
        assert len(hits) == 3
