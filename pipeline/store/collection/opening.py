"""Opening a collection: create it where it is missing, refuse it where it is another's."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from pipeline.errors import Mismatch, NotFound
from pipeline.store.collection.indexes import IndexSettings, check_server
from pipeline.store.collection.schema import (
    SPARSE_FIELD,
    VECTOR_FIELD,
    documents_spec,
    ledger_spec,
    read_stamp,
    schema_problems,
)
from pipeline.store.milvus.api import CollectionInfo, CollectionSpec, IndexInfo, MilvusApi

log = structlog.get_logger(__name__)

# Shown in messages only: a folder and a hub id may name the same model.
_MODEL_NAME = "name"


def open_collection(
    api: MilvusApi, name: str, stamp: Mapping[str, Any], dimension: int, index: IndexSettings, *, create: bool
) -> CollectionInfo:
    """The collection of documents, fit for vectors of the model that `stamp` describes.

    With `create` it is made and loaded where it is missing, several workers at once being no harm; without, it must
    be there (`NotFound`). Raises `Mismatch` where it has another schema, dimension, metric or model, `UsageError` for
    a name or an index the server cannot have. Another index type or other parameters work all the same: logged.
    """
    check_server(index, api.server)
    spec = documents_spec(name, dimension=dimension, index=index, stamp=stamp, bm25=api.server.bm25)

    def check(info: CollectionInfo) -> None:
        _check_own_name(info, spec)
        check_model(info, stamp)
        _check_schema(info, spec)
        _check_metric(info, index.info())

    info = _open(api, spec, check, create=create)
    _note_other_index(info, index.info())
    return info


def open_ledger(api: MilvusApi, name: str, *, create: bool = True) -> CollectionInfo:
    """The ledger of the collection `name`; raises as `open_collection` does."""
    spec = ledger_spec(name)
    return _open(api, spec, lambda info: _check_schema(info, spec), create=create)


def holds_topic(api: MilvusApi, name: str, topic: str) -> bool:
    """Whether the collection has rows of this Kafka topic. Raises Unavailable, NotFound."""
    # A topic's name is letters, digits, dots, dashes and underscores, so JSON is its literal.
    return bool(api.query(name, f"kafka_topic == {json.dumps(topic)}", ["id"], limit=1))


def _open(
    api: MilvusApi, spec: CollectionSpec, check: Callable[[CollectionInfo], None], *, create: bool
) -> CollectionInfo:
    info = api.describe(spec.name)
    if info is not None:
        check(info)
    if not create:
        if info is None:
            raise NotFound(f"there is no collection {spec.name!r}; an ingest worker creates it")
        return info
    # Also where it is there: this loads it if it was released, and finishes it if its maker died half-way.
    api.create_collection(spec if info is None else _without_missing(spec, info))
    made = api.describe(spec.name)
    if made is None:
        raise NotFound(f"collection {spec.name!r} was dropped while it was opened; start again")
    check(made)
    return made


def _without_missing(spec: CollectionSpec, info: CollectionInfo) -> CollectionSpec:
    """The spec without the keyword field where the collection was made on a server that had none."""
    if not spec.bm25 or any(field.name == SPARSE_FIELD for field in info.fields):
        return spec
    return replace(
        spec,
        fields=tuple(field for field in spec.fields if field.name != SPARSE_FIELD),
        indexes={name: index for name, index in spec.indexes.items() if name != SPARSE_FIELD},
        bm25=False,
    )


def _check_own_name(info: CollectionInfo, spec: CollectionSpec) -> None:
    if info.name != spec.name:
        raise Mismatch(
            f"{spec.name!r} is an alias of collection {info.name!r}: write the collection's own name, because an alias "
            "can be moved under a running worker"
        )


def _check_schema(info: CollectionInfo, spec: CollectionSpec) -> None:
    problems = schema_problems(spec, info)
    if problems:
        raise Mismatch(
            f"collection {spec.name!r} has another schema: {'; '.join(problems)}. Set milvus.collection to another "
            f"name, or drop it with `milvus-stream collections drop {spec.name}`"
        )


def check_model(info: CollectionInfo, stamp: Mapping[str, Any]) -> None:
    """Raise Mismatch unless the collection holds vectors of the model that `stamp` describes."""
    stored = read_stamp(info)
    if stored is None:
        raise Mismatch(
            f"collection {info.name!r} does not say which model its vectors are of, so it was not made by "
            "milvus-stream. Set milvus.collection to another name"
        )
    ours = json.loads(json.dumps(dict(stamp)))
    differing = sorted(key for key in (stored.keys() | ours.keys()) - {_MODEL_NAME} if stored.get(key) != ours.get(key))
    if differing:
        sides = "; ".join(f"{key} is {stored.get(key)!r} there and {ours.get(key)!r} here" for key in differing)
        raise Mismatch(
            f"collection {info.name!r} holds vectors of another model ({stored.get(_MODEL_NAME)!r} there, "
            f"{ours.get(_MODEL_NAME)!r} here): {sides}. Configure that model again, or set milvus.collection to a new "
            "name and replay the topic into it"
        )


def _check_metric(info: CollectionInfo, wanted: IndexInfo) -> None:
    found = info.indexes.get(VECTOR_FIELD)
    if found is not None and found.metric != wanted.metric:
        raise Mismatch(
            f"collection {info.name!r} compares vectors by {found.metric}, but milvus.index.metric is {wanted.metric}: "
            f"write {found.metric}, or set milvus.collection to a new name"
        )


def _note_other_index(info: CollectionInfo, wanted: IndexInfo) -> None:
    """Another type or other parameters give the same results, faster or slower: a warning, no refusal."""
    found = info.indexes[VECTOR_FIELD]
    # Lite does not tell the parameters; what is not told cannot differ.
    differing = {key: told for key, told in found.params.items() if key in wanted.params and told != wanted.params[key]}
    if found.type != wanted.type or differing:
        log.warning(
            "index.differs",
            collection=info.name,
            stored=found.type,
            configured=wanted.type,
            stored_params=differing,
            what="the stored index stays; a collection of another name gets the configured one",
        )
