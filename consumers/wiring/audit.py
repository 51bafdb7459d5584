"""Configuration -> an audit; beside `wiring`, whose parts it puts together."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial

from consumers.audit.job import Audit, AuditSettings
from consumers.audit.reading import ReplayedDecision
from consumers.audit.repair import Repairer
from consumers.audit.workspace import open_workspace
from consumers.config.settings import Settings
from consumers.dead_letters import rejected_positions
from consumers.kafka import GroupWatch, TimeRange
from consumers.wiring import common as wiring
from consumers.wiring import ingest as ingest_wiring
from pipeline.embedding import Embedder
from pipeline.store import MilvusPartitions, MilvusServerApi, open_collection, open_ledger


@contextmanager
def audit(
    settings: Settings, times: TimeRange | None, api: MilvusServerApi, model: Embedder, *, repair: bool, limit: int
) -> Iterator[tuple[Audit, Repairer | None]]:
    """An audit, and with `repair` what mends; opens the collection as it is. Raises NotFound where there is none."""
    name, append = settings.milvus.collection, settings.mode == "append"
    open_collection(
        api, name, asdict(model.stamp), model.stamp.dimension, wiring.index_settings(settings), create=False
    )
    if not append:
        open_ledger(api, name, create=False)
    kafka, cutter = wiring.kafka_settings(settings), wiring.chunker(settings, model)
    now_ms = time.time_ns() // 1_000_000
    skew_ms = round(settings.partitioning.future_skew.total_seconds() * 1000)
    acceptance = ReplayedDecision(wiring.decoder(settings), settings.partitioning.by, skew_ms, now_ms)
    kept = settings.milvus.tombstone_retention
    mender = None
    if repair:
        mender = Repairer(
            kafka,
            api,
            name,
            acceptance=acceptance,
            chunker=cutter,
            model=model,
            writer=lambda ledger: ingest_wiring.writer_into(settings, api, model, MilvusPartitions(api, name), ledger),
            active=GroupWatch(kafka).active,
            append=append,
            flush=settings.milvus.durability == "flush",
        )
    what = AuditSettings(
        kafka=kafka,
        rejected_positions=partial(rejected_positions, kafka, settings.kafka.dead_letter_topic),
        collection=name,
        by=settings.partitioning.by,
        fingerprint=ingest_wiring.fingerprint(settings, model),
        append=append,
        deletes_kept_from_ms=0 if kept is None else now_ms - round(kept.total_seconds() * 1000),
        limit=limit,
    )
    with open_workspace() as file:
        yield Audit(what, times, api, acceptance=acceptance, chunker=cutter, spill=file), mender
