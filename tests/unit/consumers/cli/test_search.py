"""`milvus-stream search`: the body its options make, what is refused, and what needs no model."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from consumers.cli.search import request_body, search
from consumers.config import Settings, load_settings
from pipeline.embedding import HashEmbedder
from pipeline.errors import Mismatch, UsageError
from pipeline.query import parse_request
from pipeline.store import IndexSettings, open_collection
from pipeline.store.collection.schema import documents_spec
from tests.support.fakes.milvus import FakeMilvus

MODEL = HashEmbedder("hash:8")


def test_a_name_that_milvus_would_cut_is_a_usage_error() -> None:
    body = request_body("q", limit=1, last=None, from_=None, to=None, where=["][=1"])
    with pytest.raises(UsageError, match=r"filter/filters/0/key: contains \]\[") as caught:
        search(Settings(), body)
    assert caught.value.exit_code == 2


def body(mode: str | None) -> dict[str, Any]:
    return request_body("refund", mode=mode, limit=3, last=None, from_=None, to=None, where=[])


def test_the_mode_is_in_the_body_where_one_is_given() -> None:
    assert body(None) == {"query": "refund", "limit": 3}
    assert body("keyword") == {"query": "refund", "limit": 3, "mode": "keyword"}
    assert [parse_request(body(mode)).mode for mode in ("dense", "keyword", "hybrid")] == ["dense", "keyword", "hybrid"]


def freshness(wait_for: list[str], *, strong: bool = False) -> Any:
    options: Any = {"last": None, "from_": None, "to": None, "where": [], "wait_for": wait_for, "strong": strong}
    body = request_body("refund", limit=3, **options)
    parse_request(body)
    return body.get("freshness")


def test_the_records_to_wait_for_are_in_the_body() -> None:
    assert freshness([]) is None
    assert freshness([], strong=True) == {"level": "strong"}
    awaited = [{"topic": "a.b-c", "partition": 0, "offset": 7}, {"topic": "d", "partition": 12, "offset": 0}]
    assert freshness(["a.b-c:0:7", "d:12:0"]) == {"wait_for": awaited}
    assert freshness(["d:12:0"], strong=True) == {"level": "strong", "wait_for": awaited[1:]}


@pytest.mark.parametrize("text", ["", "a", "a:1", "a:1:", ":1:1", "a:-1:1", "a:1:1.5", "a:x:1", "a:²:1"])
def test_another_form_of_a_record_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write --wait-for topic:partition:offset"):
        freshness([text])


def test_waiting_without_a_configured_kafka_is_refused_before_anything_connects() -> None:
    body = request_body("refund", limit=3, last=None, from_=None, to=None, where=[], wait_for=["a:0:1"])
    with pytest.raises(UsageError, match=r"set kafka\.bootstrap_servers"):
        search(Settings(), body)


@pytest.fixture
def without_model() -> Settings:
    """The model is not on this machine."""
    return load_settings(None, {}, ["embedding.model=nobody/none", "milvus.collection=news"])


def test_a_search_by_words_loads_no_model(milvus: FakeMilvus, without_model: Settings) -> None:
    open_collection(milvus, "news", asdict(MODEL.stamp), 8, IndexSettings("FLAT"), create=True)
    row = {"doc_id": "a", "chunk": 0, "text": "a refund", "vector": np.ones(8, np.float32), "event_time": 0}
    milvus.upsert(
        "news", None, [{**row, "kafka_topic": "t", "kafka_partition": 0, "kafka_offset": 1, "id": f"{1:040x}"}]
    )
    answer = search(without_model, body("keyword"))
    assert ([result["doc_id"] for result in answer["results"]], answer["mode"]) == (["a"], "keyword")
    for mode in (None, "dense", "hybrid"):
        with pytest.raises(UsageError, match="nobody/none"):
            search(without_model, body(mode))


def test_words_of_a_collection_of_another_program_are_not_searched(milvus: FakeMilvus, without_model: Settings) -> None:
    spec = documents_spec("news", dimension=8, index=IndexSettings("FLAT"), stamp={"name": "test"}, bm25=True)
    milvus.create_collection(replace(spec, description="notes of a person"))
    with pytest.raises(Mismatch, match="was not made by milvus-stream"):
        search(without_model, body("keyword"))


@pytest.mark.parametrize(
    ("condition", "filter_"),
    [
        ("lang=en", {"type": "eq", "key": "lang", "value": "en"}),
        ("price>=5", {"type": "gte", "key": "price", "value": 5}),
        ("price<2.5", {"type": "lt", "key": "price", "value": 2.5}),
        ("price>-1", {"type": "gt", "key": "price", "value": -1}),
        ("done!=true", {"type": "ne", "key": "done", "value": True}),
        ("name<=m", {"type": "lte", "key": "name", "value": "m"}),
        ('code="5"', {"type": "eq", "key": "code", "value": "5"}),
        ("a!b=1=2", {"type": "eq", "key": "a!b", "value": "1=2"}),
        ("note=", {"type": "eq", "key": "note", "value": ""}),
    ],
)
def test_conditions_have_operators(condition: str, filter_: dict[str, object]) -> None:
    body = request_body("q", limit=1, last=None, from_=None, to=None, where=[condition])
    assert body["filter"]["filters"] == [filter_]


@pytest.mark.parametrize("condition", ["", "lang", "=en", ">5"])
def test_a_condition_without_a_key_or_an_operator_is_refused(condition: str) -> None:
    with pytest.raises(UsageError, match="write --where key=value"):
        request_body("q", limit=1, last=None, from_=None, to=None, where=[condition])


def test_the_least_score_and_recency_are_passed_on() -> None:
    body = request_body("q", limit=1, last=None, from_=None, to=None, where=[], min_score=0.0, recency="12h")
    assert (body["min_score"], body["recency"]) == (0.0, {"half_life": "12h"})
