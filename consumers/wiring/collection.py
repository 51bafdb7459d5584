"""The configured collection, its index and the writers into it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any

from consumers.config import Settings
from consumers.wiring.modes import WriteTarget, mode_of
from consumers.wiring.stamp import own_stamp
from pipeline.embedding import Embedder
from pipeline.records import KafkaPartition, Position
from pipeline.store import (
    AppendIds,
    CollectionStamp,
    HasMembers,
    IndexSettings,
    KeywordSettings,
    Ledger,
    MilvusPartitions,
    MilvusServerApi,
    Partitioning,
    Tier,
    WritePolicy,
    Writer,
    check_filled,
    check_search_defaults,
    open_collection,
    open_for_filling,
    open_ledger,
)
from pipeline.telemetry import IngestMetrics


def index_settings(settings: Settings) -> IndexSettings:
    """The configured index. Raises UsageError for parameters that its type does not have."""
    section = settings.milvus.index
    return IndexSettings(section.type, section.metric, section.params)


def search_params(settings: Settings) -> Mapping[str, Any]:
    """The configured parameters of searches. Raises UsageError for what the configured type of index does not take."""
    params = settings.milvus.search_params
    check_search_defaults(index_settings(settings), params)
    return params


def keyword_settings(settings: Settings) -> KeywordSettings:
    """What a new collection does with words. Raises UsageError for an analyzer that is none."""
    section = settings.milvus
    return KeywordSettings(section.sparse, section.analyzer, section.enable_match)


def open_existing(settings: Settings, api: MilvusServerApi, model: Embedder) -> CollectionStamp:
    """Open the collection, and its ledger where the mode has one; returns its stamp. Changes nothing.

    Raises Mismatch (schema, model, stamp), NotFound where it is missing, UsageError (index).
    """
    name = settings.milvus.collection
    open_collection(
        api,
        name,
        asdict(model.stamp),
        model.stamp.dimension,
        index_settings(settings),
        create=False,
        keywords=keyword_settings(settings),
    )
    stamp = check_filled(api, name, own_stamp(settings, model))
    if mode_of(settings).one_version:
        open_ledger(api, name, create=False)
    return stamp


def open_configured(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    *,
    adopt: HasMembers | None = None,
    admit: Callable[[CollectionStamp], None] | None = None,
) -> CollectionStamp:
    """Open the collection for writing; creates what is missing, and returns the collection's stamp.

    Raises Mismatch (schema, model, stamp), UsageError (index). `adopt` and `admit` as in `open_for_filling`.
    """
    name, own = settings.milvus.collection, own_stamp(settings, model)
    index, keywords = index_settings(settings), keyword_settings(settings)
    return open_for_filling(api, name, own, index, keywords=keywords, adopt=adopt, admit=admit)


def open_writer(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    metrics: IngestMetrics,
    *,
    stamp: CollectionStamp | None = None,
    owned: Callable[[], Collection[KafkaPartition]] | None = None,
    durable: Callable[[Position], bool] = lambda _: False,
    verify: bool = True,
) -> Writer:
    """Open the collection for writing; creates what is missing. Raises as `open_configured`.

    `stamp`: that of the collection, which is open already. `owned`: the Kafka partitions of this worker; None: nobody
    else writes. `durable` and `verify` as in `WriteTarget`.
    """
    stamp = stamp or open_configured(settings, api, model)
    name, limit = settings.milvus.collection, settings.partitioning.max_partitions
    partitions = MilvusPartitions(api, name, limit, on_count=metrics.milvus_partitions.set)
    ledger = Ledger(api, name, WritePolicy(), owned=owned)
    return new_writer(
        settings,
        api,
        model,
        partitions,
        append_ids=stamp.append_ids,
        ledger=ledger,
        durable=durable,
        verify=verify,
    )


def new_writer(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    partitions: MilvusPartitions,
    *,
    append_ids: AppendIds,
    ledger: Ledger | None = None,
    durable: Callable[[Position], bool] = lambda _: False,
    verify: bool = True,
) -> Writer:
    """A writer into a collection that is open already; `ledger`: one to share, in upsert mode.

    `append_ids`, `durable` and `verify` as in `WriteTarget`.
    """
    target = WriteTarget(
        api,
        settings.milvus.collection,
        partitions,
        partitioning(settings),
        fingerprint(settings, model),
        append_ids,
        durable=durable,
        nodes="llamaindex" in settings.milvus.compat,
        verify=verify,
    )
    return mode_of(settings).new_writer(target, ledger)


def partitioning(settings: Settings) -> Partitioning:
    """The configured rule by which a document gets its Milvus partition."""
    section = settings.partitioning
    tiers = (Tier(round(tier.older_than.total_seconds() * 1000), tier.by) for tier in section.tiers)
    return Partitioning(section.by, tuple(tiers))


def fingerprint(settings: Settings, model: Embedder) -> str:
    """Identifies model and chunking: after a change of either, a record that is read again is written again."""
    return f"{model.stamp.fingerprint}-{settings.chunking.max_tokens}-{settings.chunking.overlap}"
