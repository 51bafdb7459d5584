"""Opening of collections: creates a missing one, refuses one with another schema, metric or model."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from pipeline.errors import Mismatch, NotFound
from pipeline.records import SPARSE_FIELD, VECTOR_FIELD
from pipeline.store.collection.indexes import IndexSettings, check_server
from pipeline.store.collection.keywords import DEFAULT_KEYWORDS, KeywordSettings, check_keywords, keyword_differences
from pipeline.store.collection.schema import KEYWORD_INDEX, documents_spec, ledger_spec, marks_spec, schema_problems
from pipeline.store.collection.stamp import CollectionStamp, model_problems, read_stamp
from pipeline.store.milvus.api import CollectionInfo, CollectionSpec, IndexInfo, MilvusApi
from pipeline.store.milvus.expressions import literal

log = structlog.get_logger(__name__)


def open_collection(
    api: MilvusApi,
    name: str,
    stamp: Mapping[str, Any],
    dimension: int,
    index: IndexSettings,
    *,
    create: bool,
    keywords: KeywordSettings = DEFAULT_KEYWORDS,
    more: Mapping[str, Any] | None = None,
) -> CollectionInfo:
    """Open the collection of documents for vectors of the model that `stamp` describes.

    `keywords` are those of a new one, `more` is what its description says beside them and the model.

    With `create`, a missing collection is created and loaded, also by several workers at once; otherwise it raises
    `NotFound`. Raises `Mismatch` for another schema, dimension, metric or model, and `UsageError` for a name or an
    index that the server cannot have. Another index type, other parameters and keyword settings are only logged.
    """
    check_server(index, api.server)
    bm25 = api.server.capabilities.bm25
    spec = documents_spec(
        name, dimension=dimension, index=index, stamp=stamp, bm25=bm25, keywords=keywords, more=more or {}
    )

    def check(info: CollectionInfo) -> None:
        _check_own_name(info, spec.name)
        check_model(info, stamp)
        _check_schema(info, spec)
        _check_metric(info, index.info())

    info = _open(api, spec, check, create=create, before_new=lambda: check_keywords(keywords, api.server))
    _log_other_index(info, index.info())
    _log_other_keywords(info, keywords, api)
    return info


def check_collection(
    api: MilvusApi, name: str, index: IndexSettings, keywords: KeywordSettings = DEFAULT_KEYWORDS
) -> CollectionInfo | None:
    """Check all of an existing collection that can be checked without its model; None: it does not exist.

    Raises `Mismatch` for an alias, one that milvus-stream did not make, or another metric; `UsageError` for an index
    that the server cannot have, or a new collection with such `keywords`. `open_collection` checks the rest.
    """
    check_server(index, api.server)
    info = api.describe(name)
    if info is None:
        check_keywords(keywords, api.server)
        return None
    _check_own_name(info, name)
    check_made_here(info)
    _check_metric(info, index.info())
    return info


def open_ledger(api: MilvusApi, name: str, *, create: bool = True) -> CollectionInfo:
    """Open the ledger of the collection `name`; raises as `open_collection` does."""
    return _open_companion(api, ledger_spec(name), create=create)


def open_marks(
    api: MilvusApi, name: str, stamp: CollectionStamp | None = None, *, create: bool = True
) -> CollectionInfo:
    """Open the marks of the collection `name`, new ones with its stamp; raises as `open_collection` does."""
    return _open_companion(api, marks_spec(name, stamp), create=create)


def _open_companion(api: MilvusApi, spec: CollectionSpec, *, create: bool) -> CollectionInfo:
    return _open(api, spec, lambda info: _check_schema(info, spec), create=create)


def holds_topic(api: MilvusApi, name: str, topic: str) -> bool:
    """Whether the collection has rows of this Kafka topic. Raises Unavailable, NotFound."""
    return bool(api.query(name, f"kafka_topic == {literal(topic)}", ["id"], limit=1))


def _open(
    api: MilvusApi,
    spec: CollectionSpec,
    check: Callable[[CollectionInfo], None],
    *,
    create: bool,
    before_new: Callable[[], None] = lambda: None,
) -> CollectionInfo:
    """`before_new` is called before a collection is created, and raises where the server cannot have such a one."""
    info = api.describe(spec.name)
    if info is not None:
        check(info)
    if not create:
        if info is None:
            raise no_collection(spec.name)
        return info
    if info is None:
        before_new()
    # Also for an existing one: loads it if it was released, and completes it if its creator died half-way.
    api.create_collection(spec if info is None else _as_it_is(spec, info))
    opened = api.describe(spec.name)
    if opened is None:
        raise NotFound(f"collection {spec.name!r} was dropped while it was opened; start again")
    check(opened)
    return opened


def _as_it_is(spec: CollectionSpec, info: CollectionInfo) -> CollectionSpec:
    """The spec with the field for keyword search if the collection was created with it, else without."""
    has_field = any(field.name == SPARSE_FIELD for field in info.fields)
    if spec.bm25 == has_field:
        return spec
    if has_field:
        indexes, options = {**spec.indexes, SPARSE_FIELD: KEYWORD_INDEX}, {**spec.text_options, "enable_analyzer": True}
        return replace(spec, fields=info.fields, indexes=indexes, bm25=True, text_options=options)
    return replace(
        spec,
        fields=tuple(field for field in spec.fields if field.name != SPARSE_FIELD),
        indexes={name: index for name, index in spec.indexes.items() if name != SPARSE_FIELD},
        bm25=False,
    )


def no_collection(name: str) -> NotFound:
    """The error of a command that needs the collection."""
    return NotFound(f"there is no collection {name!r}; an ingest worker creates it")


def _check_own_name(info: CollectionInfo, name: str) -> None:
    if info.name != name:
        raise Mismatch(
            f"{name!r} is an alias of collection {info.name!r}: write the collection's own name, because an alias "
            "can be moved under a running worker"
        )


def _check_schema(info: CollectionInfo, spec: CollectionSpec) -> None:
    problems = schema_problems(spec, info)
    if problems:
        raise Mismatch(
            f"collection {spec.name!r} has another schema: {'; '.join(problems)}. Set milvus.collection to another "
            f"name, or drop it with `milvus-stream collections drop {spec.name}`"
        )


def check_made_here(info: CollectionInfo) -> Mapping[str, Any]:
    """The model of the collection's vectors. Raises Mismatch for a collection that milvus-stream did not make."""
    stored = read_stamp(info)
    if stored is None:
        raise Mismatch(
            f"collection {info.name!r} does not say which model its vectors are of, so it was not made by "
            "milvus-stream. Set milvus.collection to another name"
        )
    return stored


def check_model(info: CollectionInfo, model: Mapping[str, Any]) -> None:
    """Raise Mismatch unless the collection holds vectors of this model."""
    if problems := model_problems(check_made_here(info), model):
        raise Mismatch(
            f"collection {info.name!r} is not of this model: {'; '.join(problems)}. Configure that model again, or set "
            "milvus.collection to a new name and replay the topic into it"
        )


def _check_metric(info: CollectionInfo, wanted: IndexInfo) -> None:
    stored = info.indexes.get(VECTOR_FIELD)
    if stored is not None and stored.metric != wanted.metric:
        raise Mismatch(
            f"collection {info.name!r} compares vectors by {stored.metric}, but milvus.index.metric is "
            f"{wanted.metric}: write {stored.metric}, or set milvus.collection to a new name"
        )


def _log_other_keywords(info: CollectionInfo, wanted: KeywordSettings, api: MilvusApi) -> None:
    """Warn of other settings of words: Milvus cannot change them in an existing collection."""
    if differences := keyword_differences(info, wanted, api.server):
        log.warning(
            "keywords.differ",
            collection=info.name,
            differences=differences,
            what="the collection keeps its own; a collection of another name gets the configured ones",
        )


def _log_other_index(info: CollectionInfo, wanted: IndexInfo) -> None:
    """Warn of another type of index or other parameters: results are the same, found faster or slower."""
    stored = info.indexes[VECTOR_FIELD]
    # Lite leaves out the parameters, so only those that it answers are compared.
    differing = {
        key: value for key, value in stored.params.items() if key in wanted.params and value != wanted.params[key]
    }
    if stored.type != wanted.type or differing:
        log.warning(
            "index.differs",
            collection=info.name,
            stored=stored.type,
            configured=wanted.type,
            stored_params=differing,
            what="the stored index stays; a collection of another name gets the configured one",
        )
