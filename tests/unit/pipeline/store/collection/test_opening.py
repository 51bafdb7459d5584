from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import Mismatch, NotFound, UsageError
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.opening import open_collection, open_ledger, open_marks
from pipeline.store.collection.schema import (
    check_collection_name,
    documents_spec,
    ledger_spec,
    marks_spec,
    schema_problems,
    write_stamp,
)
from pipeline.store.collection.stamp import read_stamp
from pipeline.store.milvus.api import CollectionInfo, CollectionSpec, FieldInfo, ServerInfo
from tests.support.fakes.milvus import FakeMilvus

STAMP = {"name": "org/model", "digest": "abc", "dimension": 8, "pooling": "mean"}
INDEX = IndexSettings("HNSW", "COSINE")
NEW = ServerInfo("2.6.7", (2, 6, 7), lite=False)
OLD = ServerInfo("v2.3.5-lite", (2, 3, 5), lite=False)


def opened(api: FakeMilvus, name: str = "docs", **changes: Any) -> CollectionInfo:
    arguments: dict[str, Any] = {"stamp": STAMP, "dimension": 8, "index": INDEX, "create": True} | changes
    return open_collection(api, name, **arguments)


def documents(name: str = "docs", **changes: Any) -> CollectionSpec:
    return replace(documents_spec(name, dimension=8, index=INDEX, stamp=STAMP, bm25=False), **changes)


def info_of(spec: CollectionSpec) -> CollectionInfo:
    return CollectionInfo(spec.name, spec.description, spec.fields, spec.dynamic, spec.indexes)


def test_it_is_created_with_its_stamp_and_opened_again() -> None:
    api = FakeMilvus()
    created = opened(api)
    assert read_stamp(created) == STAMP
    assert opened(api) == created
    assert opened(api, create=False) == created


def test_without_create_it_must_be_there() -> None:
    with pytest.raises(NotFound, match="no collection 'docs'"):
        opened(FakeMilvus(), create=False)


@pytest.mark.parametrize(("server", "sparse"), [(NEW, True), (OLD, False)])
def test_a_sparse_field_only_where_the_server_has_bm25(server: ServerInfo, sparse: bool) -> None:
    """Milvus 2.3 aborts when it is asked to create one."""
    info = opened(FakeMilvus(server=server))
    assert any(field.name == "sparse" for field in info.fields) is sparse
    assert ("sparse" in info.indexes) is sparse


def test_a_collection_made_before_the_server_had_bm25_still_opens() -> None:
    api = FakeMilvus(server=NEW)
    api.create_collection(documents())
    assert "sparse" not in opened(api).indexes


@pytest.mark.parametrize(("key", "value"), [("digest", "other"), ("pooling", "cls"), ("extra", 1)])
def test_another_model_is_refused_naming_both(key: str, value: object) -> None:
    api = FakeMilvus()
    opened(api)
    with pytest.raises(Mismatch, match=rf"another model.*{key} is .* there and {value!r} here.*replay") as caught:
        opened(api, stamp=STAMP | {key: value})
    assert caught.value.exit_code == 4


def test_another_name_of_the_same_model_is_no_other_model() -> None:
    api = FakeMilvus()
    opened(api)
    assert opened(api, stamp=STAMP | {"name": "/models/copy"}).name == "docs"


def test_a_stamp_is_compared_as_it_is_stored() -> None:
    api = FakeMilvus()
    opened(api, stamp=STAMP | {"shape": (1, 2)})
    assert opened(api, stamp=STAMP | {"shape": (1, 2)}).name == "docs"


@pytest.mark.parametrize("description", ["", "my notes", "[1]", '{"model": {"name": "x"}}', '{"milvus_stream": 1}'])
def test_a_collection_of_somebody_else_is_refused(description: str) -> None:
    api = FakeMilvus()
    api.create_collection(documents(description=description))
    with pytest.raises(Mismatch, match="not made by milvus-stream"):
        opened(api)


def test_another_dimension_and_metric_are_refused() -> None:
    api = FakeMilvus()
    opened(api)
    with pytest.raises(Mismatch, match="dimension 8, not 16"):
        opened(api, dimension=16)
    with pytest.raises(Mismatch, match=r"by COSINE, but milvus\.index\.metric is L2: write COSINE"):
        opened(api, index=IndexSettings("HNSW", "L2"))


def test_another_index_is_only_noted() -> None:
    api = FakeMilvus()
    opened(api)
    assert opened(api, index=IndexSettings("IVF_FLAT", "COSINE")).indexes["vector"].type == "HNSW"
    assert opened(api, index=IndexSettings("HNSW", "COSINE", {"M": 64})).indexes["vector"].params["M"] == 16


def test_an_index_the_server_cannot_have_is_refused_before_anything_is_created() -> None:
    api = FakeMilvus(server=OLD)
    with pytest.raises(UsageError, match="GPU_CAGRA"):
        opened(api, index=IndexSettings("GPU_CAGRA", "IP"))
    assert api.collections() == []


@pytest.mark.parametrize(
    ("opening", "spec", "name"), [(open_ledger, ledger_spec, "docs__ledger"), (open_marks, marks_spec, "docs__marks")]
)
def test_ledger_and_marks_are_created_and_checked(
    opening: Callable[..., CollectionInfo], spec: Callable[[str], CollectionSpec], name: str
) -> None:
    api = FakeMilvus()
    with pytest.raises(NotFound):
        opening(api, "docs", create=False)
    assert opening(api, "docs").name == name
    assert opening(api, "docs", create=False).dynamic is False
    wrong = spec("other")
    api.create_collection(replace(wrong, fields=wrong.fields[1:]))
    with pytest.raises(Mismatch, match=r"field 'id' \(VARCHAR\) is missing"):
        opening(api, "other")


def test_an_alias_is_refused() -> None:
    class Aliased(FakeMilvus):
        def describe(self, collection: str) -> CollectionInfo | None:
            info = super().describe(collection)
            return None if info is None else replace(info, name="documents_v2")

    api = Aliased()
    api.create_collection(documents())
    with pytest.raises(Mismatch, match="alias of collection 'documents_v2'"):
        opened(api)


def changed(name: str, **changes: Any) -> tuple[FieldInfo, ...]:
    return tuple(replace(field, **changes) if field.name == name else field for field in documents().fields)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"dynamic": False}, "the dynamic field is off"),
        ({"fields": documents().fields[:-1]}, "field 'kafka_offset' (INT64) is missing"),
        ({"fields": (*documents().fields, FieldInfo("more", "INT64"))}, "field 'more' is there, which nothing fills"),
        ({"fields": changed("chunk", type="INT32")}, "field 'chunk' is INT32, not INT64"),
        ({"fields": changed("text", max_length=100)}, "field 'text' holds 100 bytes, not 65535"),
        ({"fields": changed("vector", dimension=9)}, "field 'vector' has dimension 9, not 8"),
        ({"fields": changed("id", primary=False)}, "field 'id' is not the primary key"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], problem: str) -> None:
    (found,) = schema_problems(documents(), info_of(documents(**changes)))
    assert problem in found


def test_what_is_larger_fits() -> None:
    sparse = FieldInfo("sparse", "SPARSE_FLOAT_VECTOR")
    added = FieldInfo("team", "VARCHAR", max_length=64, nullable=True)
    fits = documents(fields=(*changed("kafka_topic", max_length=1000), sparse, added))
    assert schema_problems(documents(), info_of(fits)) == []


@pytest.mark.parametrize("name", ["", "a-b", "1a", "../x", "a b", "é", "a" * 248, "a\n"])
def test_names_no_server_should_see(name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits and underscores"):
        check_collection_name(name)
    with pytest.raises(UsageError):
        ledger_spec(name)


def test_stamps_round_trip() -> None:
    stamp = {"name": 'with "quotes"', "dimension": 384, "nested": {"a": [1, None]}}
    assert read_stamp(info_of(documents(description=write_stamp(stamp)))) == stamp
