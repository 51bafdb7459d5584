"""`milvus-stream search`: the body its options make, what is refused, and what needs no model."""

import io
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumers.cli.search.local import local_search
from consumers.cli.search.request import request_body
from consumers.config import Settings, load_settings
from pipeline.embedding import HashEmbedder
from pipeline.errors import Mismatch, UsageError
from pipeline.query import parse_request
from pipeline.store import IndexSettings, open_collection
from pipeline.store.collection.schema import documents_spec
from tests.support.fakes.milvus import FakeMilvus

MODEL = HashEmbedder("hash:8")


def search(settings: Settings, body: dict[str, Any]) -> dict[str, Any]:
    with local_search(settings, body) as ask:
        return ask()


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


def options(text: str | None = None, **given: Any) -> dict[str, Any]:
    return request_body(text, **{"limit": 3, "last": None, "from_": None, "to": None, "where": [], **given})


def test_a_search_by_a_vector_loads_no_model(milvus: FakeMilvus, without_model: Settings, tmp_path: Path) -> None:
    open_collection(milvus, "news", asdict(MODEL.stamp), 8, IndexSettings("FLAT"), create=True)
    row = {"doc_id": "a", "chunk": 0, "text": "a refund", "vector": np.ones(8, np.float32), "event_time": 0}
    milvus.upsert(
        "news", None, [{**row, "kafka_topic": "t", "kafka_partition": 0, "kafka_offset": 1, "id": f"{1:040x}"}]
    )
    file = tmp_path / "vector.json"
    file.write_text(json.dumps([1] * 8))
    answer = search(without_model, options(vector=str(file), count=True, explain=True))
    assert ([result["doc_id"] for result in answer["results"]], answer["total"]) == (["a"], 1)
    assert answer["explain"]["mode"] == "dense"
    both = search(without_model, options("refund", vector=str(file)))
    assert both["mode"] == "hybrid"
    file.write_text("[1, 2]")
    with pytest.raises(UsageError, match="/vector: has 2 numbers; the collection's vectors have 8"):
        search(without_model, options(vector=str(file)))


def test_options_are_in_the_body_where_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options("q") == {"query": "q", "limit": 3}
    monkeypatch.setattr(sys, "stdin", io.StringIO("[[1, 2.5]]"))
    assert [options("q", rerank=wanted)["rerank"] for wanted in (True, False)] == [True, False]
    body = options(vector="-", params=["ef=128", "level=high"], group_size=2, explain=True, count=True)
    assert body == {
        "vector": [[1, 2.5]],
        "params": {"ef": 128, "level": "high"},
        "group_size": 2,
        "explain": True,
        "count": True,
        "limit": 3,
    }
    assert parse_request(body).params == {"ef": 128, "level": "high"}


def test_weights_facets_and_fields_are_in_the_body_where_they_are_given() -> None:
    weights = ["dense=1", "keyword=0.5", "k=7"]
    body = options("q", fusion=weights, chunks=True, facets=["lang"], fields=["tag", "lang"])
    assert body == {
        "query": "q",
        "limit": 3,
        "fusion": {"dense": 1, "keyword": 0.5, "k": 7},
        "group_by": None,
        "facets": ["lang"],
        "fields": ["tag", "lang"],
    }
    parse_request(body)


@pytest.mark.parametrize(
    "weight", ["dense", "=1", "dense=", "dense=x", "dense=true", "dense=NaN", "dense=Infinity", ""]
)
def test_a_weight_that_is_no_number_is_refused(weight: str) -> None:
    with pytest.raises(UsageError, match="write --fusion NAME=NUMBER"):
        options("q", fusion=[weight])


@pytest.mark.parametrize("parameter", ["ef", "=5", ""])
def test_a_parameter_without_a_name_or_a_value_is_refused(parameter: str) -> None:
    with pytest.raises(UsageError, match="write --param NAME=VALUE"):
        options("q", params=[parameter])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff", "cannot be read as text"),
        (b"1, 2", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b" " * 2_000_000, "has more than 1,048,576 characters"),
    ],
)
def test_a_file_without_a_vector_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "vector.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        options(vector=str(file))


@pytest.mark.parametrize("content", ["{}", "[NaN]", "[]", '["1"]', "[0, 0]"])
def test_a_file_with_another_value_is_a_usage_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "vector.json"
    file.write_text(content)
    with pytest.raises(UsageError, match="search /vector"):
        search(Settings(), options(vector=str(file)))


def test_parameters_of_another_index_stop_the_search(without_model: Settings) -> None:
    settings = load_settings(None, {}, ["milvus.search_params.nprobe=8"])
    with pytest.raises(UsageError, match=r"milvus\.search_params\.nprobe is not a parameter of HNSW"):
        search(settings, options("q", mode="keyword"))


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
        ("tags~=red", {"type": "contains", "key": "tags", "value": "red"}),
        ("sizes~=4", {"type": "contains", "key": "sizes", "value": 4}),
        ("lang?", {"type": "exists", "key": "lang"}),
        ("lang??", {"type": "exists", "key": "lang?"}),
        ("lang?=en", {"type": "eq", "key": "lang?", "value": "en"}),
        ("a=b?", {"type": "eq", "key": "a", "value": "b?"}),
        ("lang=~en", {"type": "eq", "key": "lang", "value": "~en"}),
    ],
)
def test_conditions_have_operators(condition: str, filter_: dict[str, object]) -> None:
    body = request_body("q", limit=1, last=None, from_=None, to=None, where=[condition])
    assert body["filter"]["filters"] == [filter_]


def test_a_filter_of_the_search_api_is_passed_on() -> None:
    absent = {"type": "not", "filter": {"type": "exists", "key": ["a", "b"]}}
    body = request_body("q", limit=1, last=None, from_=None, to=None, where=["c=1"], filters=[json.dumps(absent)])
    assert body["filter"] == {"type": "and", "filters": [{"type": "eq", "key": "c", "value": 1}, absent]}
    assert parse_request(body).filter is not None


@pytest.mark.parametrize("text", ["", "lang=en", "{", '{"type": "eq", "type": "ne"}', "NaN", "\udcff", "[" * 100_000])
def test_a_filter_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--filter is not JSON"):
        request_body("q", limit=1, last=None, from_=None, to=None, where=[], filters=[text])


@pytest.mark.parametrize("condition", ["", "?", "~=1", "!=1", ">=1", "lang", "=en", ">5"])
def test_a_condition_without_a_key_or_an_operator_is_refused(condition: str) -> None:
    with pytest.raises(UsageError, match="write --where key=value"):
        request_body("q", limit=1, last=None, from_=None, to=None, where=[condition])


def test_the_least_score_and_recency_are_passed_on() -> None:
    body = request_body("q", limit=1, last=None, from_=None, to=None, where=[], min_score=0.0, recency="12h")
    assert (body["min_score"], body["recency"]) == (0.0, {"half_life": "12h"})
