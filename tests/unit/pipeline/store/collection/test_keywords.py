"""Keyword settings of a new collection: what is accepted, what a server can have, what differs from a stored one."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.errors import UsageError
from pipeline.store import KeywordSettings, check_keywords, keyword_settings_of
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.opening import check_collection, open_collection
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import CollectionInfo, ServerInfo
from pipeline.store.milvus.conversion import sdk_schema
from tests.support.fakes.milvus import FakeMilvus

OLD = ServerInfo("v2.3.5-lite", (2, 3, 5), lite=False)
NEW = ServerInfo("v2.5.27", (2, 5, 27), lite=False)
LITE = ServerInfo("milvus_lite-3.2.2", (3, 2, 2), lite=True)
STAMP = {"name": "org/model", "dimension": 8}
INDEX = IndexSettings("HNSW", "COSINE")
JIEBA = {"tokenizer": "jieba"}


def opened(api: FakeMilvus, keywords: KeywordSettings, *, create: bool = True) -> CollectionInfo:
    return open_collection(api, "docs", STAMP, 8, INDEX, create=create, keywords=keywords)


@pytest.mark.parametrize(
    ("analyzer", "words"),
    [
        ("klingon", "write standard, english, chinese, or a mapping"),
        ({}, "a mapping needs tokenizer"),
        ({"filter": ["lowercase"]}, "a mapping needs tokenizer"),
        ({"tokenizer": "standard", "filters": []}, "has 'filters', which Milvus does not know"),
        ({"tokenizer": {1, 2}}, "is not JSON"),
        ({"tokenizer": "standard", "filter": [float("nan")]}, "is not JSON"),
        ({"tokenizer": "standard", "stop_words": ["x" * 20_000]}, "at most 16,384 are stored"),
    ],
)
def test_an_analyzer_that_is_none_is_refused(analyzer: Any, words: str) -> None:
    with pytest.raises(UsageError, match=rf"milvus\.analyzer.*{words}"):
        KeywordSettings(analyzer=analyzer)


@pytest.mark.parametrize(
    ("settings", "servers"),
    [
        (KeywordSettings(), [OLD, NEW, LITE]),
        (KeywordSettings(sparse="off"), [OLD, NEW, LITE]),
        (KeywordSettings(analyzer="english"), [NEW]),
        (KeywordSettings(analyzer=JIEBA), [NEW, LITE]),
        (KeywordSettings(enable_match=True), [NEW, LITE]),
        (KeywordSettings(analyzer=JIEBA, enable_match=True), [NEW]),
    ],
)
def test_a_server_that_cannot_have_them_creates_nothing(settings: KeywordSettings, servers: list[ServerInfo]) -> None:
    needs = r"milvus\.(analyzer|enable_match).*needs"
    for server in (OLD, NEW, LITE):
        api = FakeMilvus(server=server)
        if server in servers:
            check_keywords(settings, server)
            assert check_collection(api, "docs", INDEX, settings) is None
            assert keyword_settings_of(opened(api, settings)).enable_match == settings.enable_match
            continue
        with pytest.raises(UsageError, match=needs):
            opened(api, settings)
        with pytest.raises(UsageError, match=needs):
            check_collection(api, "docs", INDEX, settings)
        assert api.collections() == []


def test_a_collection_has_what_is_configured() -> None:
    def text_of(keywords: KeywordSettings) -> dict[str, Any]:
        spec = documents_spec("docs", dimension=2, index=INDEX, stamp=STAMP, bm25=True, keywords=keywords)
        schema = sdk_schema(spec)
        assert (spec.bm25, bool(schema.functions)) == ((keywords.sparse == "auto"),) * 2
        (field,) = [field for field in schema.fields if field.name == "text"]
        params: dict[str, Any] = field.to_dict()["params"]
        if "analyzer_params" in params:
            params["analyzer_params"] = json.loads(params["analyzer_params"])
        return {name: value for name, value in params.items() if name != "max_length"}

    assert text_of(KeywordSettings()) == {"enable_analyzer": True}
    assert text_of(KeywordSettings("off")) == {}
    assert text_of(KeywordSettings("off", enable_match=True)) == {"enable_analyzer": True, "enable_match": True}
    english = text_of(KeywordSettings(analyzer="english", enable_match=True))
    assert english == {"enable_analyzer": True, "enable_match": True, "analyzer_params": {"type": "english"}}
    assert text_of(KeywordSettings(analyzer=JIEBA))["analyzer_params"] == JIEBA


def test_the_settings_are_read_back() -> None:
    for settings in (KeywordSettings(), KeywordSettings("off", "english", True), KeywordSettings(analyzer=JIEBA)):
        assert keyword_settings_of(opened(FakeMilvus(server=NEW), settings)) == settings
    assert keyword_settings_of(opened(FakeMilvus(server=OLD), KeywordSettings())).sparse == "off"


def test_an_existing_collection_keeps_its_own_and_the_start_names_the_difference() -> None:
    api = FakeMilvus(server=NEW)
    stored = opened(api, KeywordSettings())
    with capture_logs() as logs:
        assert opened(api, KeywordSettings("off", "english", True)) == stored
    (warning,) = [entry for entry in logs if entry["event"] == "keywords.differ"]
    assert warning["log_level"] == "warning"
    assert warning["differences"] == [
        "milvus.sparse: the collection has a keyword index, configured is off",
        "milvus.analyzer: standard there, english configured",
        "milvus.enable_match: false there, true configured",
    ]
    with capture_logs() as logs:
        opened(api, KeywordSettings())
    assert logs == []


def test_a_missing_keyword_index_is_named_where_the_server_could_have_it() -> None:
    for server, named in ((NEW, True), (OLD, False)):
        api = FakeMilvus(server=server)
        opened(api, KeywordSettings("off"))
        with capture_logs() as logs:
            assert "sparse" not in opened(api, KeywordSettings()).indexes
        assert bool(logs) is named


def test_an_analyzer_of_a_newer_version_stops_nothing() -> None:
    api = FakeMilvus(server=NEW)
    open_collection(
        api, "docs", STAMP, 8, INDEX, create=True, more={"keywords": {"analyzer": "klingon", "enable_match": True}}
    )
    info = api.describe("docs")
    assert info is not None
    assert keyword_settings_of(info) == KeywordSettings(enable_match=True)
