"""Searches of the configured collection, for the query worker and the command `search`."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from secrets import token_bytes
from typing import Any

from consumers.config import Settings
from consumers.wiring.collection import search_params
from consumers.wiring.documents import embedding_settings
from consumers.wiring.modes import mode_stamped
from pipeline.embedding import Embedder, unrelated_similarity
from pipeline.errors import Unavailable
from pipeline.query import (
    Cursors,
    FreshnessWatch,
    QueryEmbedder,
    RelevanceScale,
    Reranking,
    Searcher,
    SearchService,
    SearchSettings,
)
from pipeline.store import (
    CollectionInfo,
    CollectionStamp,
    MilvusServerApi,
    check_made_here,
    check_model,
    described_stamp,
    marks_name,
)
from pipeline.telemetry import QueryMetrics


def searcher(
    settings: Settings, api: MilvusServerApi, model: Embedder | None, reranking: Reranking | None = None
) -> Searcher:
    """A searcher over the configured collection.

    A collection that does not exist yet is no error: searches are answered 503 until a worker has created it. Its mode
    is that of its stamp, or the configured one where it has no stamp. `model`: None where every search is by words;
    `reranking`: None where none is reranked.
    Raises Mismatch for a collection of another model, or of another program; UsageError (milvus.search_params).
    """
    stamp = None if model is None else asdict(model.stamp)
    new = Searcher(
        api,
        settings.milvus.collection,
        SearchSettings(params=search_params(settings)),
        accept=lambda info: _accept(info, stamp),
        one_version=lambda info: mode_stamped(collection_stamp(api, info), settings).one_version,
        reranking=reranking,
        scale=_scale(settings, model),
    )
    with suppress(Unavailable):
        new.check()
    return new


def _scale(settings: Settings, model: Embedder | None) -> RelevanceScale | None:
    """The model's scale of relevance; None where there is none. The first use of a model measures it."""
    unrelated = None if model is None else unrelated_similarity(model, embedding_settings(settings))
    return None if unrelated is None else RelevanceScale(unrelated)


def _accept(info: CollectionInfo, model: Mapping[str, Any] | None) -> None:
    """Raise Mismatch for a collection that must not be searched by a model's vectors, or without a model by words."""
    if model is None:
        check_made_here(info)
    else:
        check_model(info, model)


def collection_stamp(api: MilvusServerApi, info: CollectionInfo) -> CollectionStamp | None:
    """The stamp of a collection without those who fill it; where a former version made it, its marks have the rules."""
    stamp = described_stamp(info, None)
    if stamp is None or stamp.rules is not None:
        return stamp
    return described_stamp(info, api.describe(marks_name(info.name)))


def search_service(
    settings: Settings,
    search: Searcher,
    embedder: QueryEmbedder | None,
    metrics: QueryMetrics,
    *,
    cursors: Cursors | None = None,
    freshness: FreshnessWatch | None = None,
) -> SearchService:
    """The service over a searcher. `cursors`: None where one search is all. `freshness`: None where it is not known."""
    return SearchService(
        search,
        embedder,
        metrics,
        max_results=settings.query.max_limit,
        concurrency=settings.query.concurrency,
        cursors=cursors,
        freshness=freshness,
    )


def cursors(settings: Settings) -> Cursors:
    """The cursors of the configured collection; without `query.cursor_key` only this process takes its own."""
    key = settings.query.cursor_key
    secret = token_bytes(32) if key is None else key.get_secret_value().encode()
    return Cursors(secret, settings.milvus.collection)
