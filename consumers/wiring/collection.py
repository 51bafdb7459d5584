"""The configured collection, its index and the writers into it."""

from collections.abc import Callable, Collection
from dataclasses import asdict

from consumers.config import Settings
from consumers.wiring.modes import WriteTarget, mode_of
from pipeline.embedding import Embedder
from pipeline.records import KafkaPartition, Position
from pipeline.store import (
    IndexSettings,
    Ledger,
    MilvusPartitions,
    MilvusServerApi,
    Partitioning,
    Tier,
    WritePolicy,
    Writer,
    open_collection,
    open_ledger,
    open_marks,
)
from pipeline.telemetry import IngestMetrics


def index_settings(settings: Settings) -> IndexSettings:
    """The configured index. Raises UsageError for parameters that its type does not have."""
    section = settings.milvus.index
    return IndexSettings(section.type, section.metric, section.params)


def open_configured(settings: Settings, api: MilvusServerApi, model: Embedder, *, create: bool) -> None:
    """Open the collection, its ledger where the mode has one, and with `create` its marks.

    Raises Mismatch (schema or model), NotFound where it is missing and `create` is false, UsageError (index).
    """
    name = settings.milvus.collection
    open_collection(api, name, asdict(model.stamp), model.stamp.dimension, index_settings(settings), create=create)
    if mode_of(settings).one_version:
        open_ledger(api, name, create=create)
    if create:  # a reader can do without: a collection filled by a former version has none before its next worker
        open_marks(api, name)


def open_writer(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    metrics: IngestMetrics,
    *,
    owned: Callable[[], Collection[KafkaPartition]] | None = None,
    durable: Callable[[Position], bool] = lambda _: False,
    verify: bool = True,
) -> Writer:
    """Open the collection for writing; creates what is missing. Raises as `open_configured`.

    `owned`: the Kafka partitions of this worker; None: nobody else writes. `durable` and `verify` as in `WriteTarget`.
    """
    open_configured(settings, api, model, create=True)
    name, limit = settings.milvus.collection, settings.partitioning.max_partitions
    partitions = MilvusPartitions(api, name, limit, on_count=metrics.milvus_partitions.set)
    ledger = Ledger(api, name, WritePolicy(), owned=owned)
    return new_writer(settings, api, model, partitions, ledger, durable=durable, verify=verify)


def new_writer(
    settings: Settings,
    api: MilvusServerApi,
    model: Embedder,
    partitions: MilvusPartitions,
    ledger: Ledger | None = None,
    *,
    durable: Callable[[Position], bool] = lambda _: False,
    verify: bool = True,
) -> Writer:
    """A writer into a collection that is open already; `ledger`: one to share, in upsert mode.

    `durable` and `verify` as in `WriteTarget`.
    """
    target = WriteTarget(
        api,
        settings.milvus.collection,
        partitions,
        partitioning(settings),
        fingerprint(settings, model),
        durable=durable,
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
