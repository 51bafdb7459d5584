"""The audit job and its repairer."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from consumers.audit.job import Audit, AuditSettings, OnProgress
from consumers.audit.reading import ReplayedDecision
from consumers.audit.repair import Repairer
from consumers.audit.workspace import open_workspace
from consumers.config import Settings
from consumers.dead_letters import rejected_positions
from consumers.kafka import GroupWatch, TimeRange
from consumers.wiring.collection import fingerprint, new_writer, open_configured, partitioning
from consumers.wiring.connections import kafka_settings
from consumers.wiring.documents import chunker, decoder
from consumers.wiring.modes import mode_of
from consumers.wiring.start_warnings import log_server_warnings
from pipeline.embedding import Embedder
from pipeline.store import MilvusPartitions, MilvusServerApi


@contextmanager
def audit(
    settings: Settings,
    times: TimeRange | None,
    api: MilvusServerApi,
    model: Embedder,
    *,
    repair: bool,
    limit: int,
    on_progress: OnProgress,
) -> Iterator[tuple[Audit, Repairer | None]]:
    """An audit, and with `repair` its repairer. Opens the existing collection; raises NotFound where there is none."""
    log_server_warnings(api)
    name, append = settings.milvus.collection, not mode_of(settings).one_version
    open_configured(settings, api, model, create=False)
    kafka, cutter = kafka_settings(settings), chunker(settings, model)
    now_ms = time.time_ns() // 1_000_000
    skew_ms = round(settings.partitioning.future_skew.total_seconds() * 1000)
    decision = ReplayedDecision(decoder(settings), partitioning(settings), skew_ms, now_ms)
    retention = settings.milvus.tombstone_retention
    repairer = None
    if repair:
        repairer = Repairer(
            kafka,
            api,
            name,
            decision=decision,
            chunker=cutter,
            model=model,
            writer=lambda ledger: new_writer(settings, api, model, MilvusPartitions(api, name), ledger),
            active=GroupWatch(kafka).active,
            append=append,
            flush=settings.milvus.durability == "flush",
        )
    configured = AuditSettings(
        kafka=kafka,
        rejected_positions=partial(rejected_positions, kafka, settings.kafka.dead_letter_topic),
        collection=name,
        partitioning=partitioning(settings),
        fingerprint=fingerprint(settings, model),
        append=append,
        deletes_kept_from_ms=0 if retention is None else now_ms - round(retention.total_seconds() * 1000),
        limit=limit,
    )
    with open_workspace() as workspace:
        yield (
            Audit(
                configured,
                times,
                api,
                decision=decision,
                chunker=cutter,
                workspace=workspace,
                on_progress=on_progress,
            ),
            repairer,
        )
