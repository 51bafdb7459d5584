"""The audit job and its repairer."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from consumers.audit.job import Audit, AuditSettings, OnProgress
from consumers.audit.reading import ReplayedDecision
from consumers.audit.repair import Repairer
from consumers.audit.workspace import open_workspace
from consumers.config import Settings
from consumers.dead_letters import rejected_positions
from consumers.kafka import GroupWatch, JobMembership, LiveGroup, TimeRange, records_at
from consumers.wiring.collection import fingerprint, new_writer, open_existing, partitioning
from consumers.wiring.connections import kafka_settings
from consumers.wiring.documents import chunker, decoder
from consumers.wiring.modes import mode_of
from consumers.wiring.start_warnings import log_server_warnings
from pipeline.embedding import Embedder
from pipeline.store import Marks, MilvusPartitions, MilvusServerApi, topic_ids_seen


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
    """An audit, and with `repair` its repairer, as the one job that writes the collection.

    Opens the existing collection; raises NotFound where there is none, and with `repair` MilvusStreamError while
    another job writes it.
    """
    log_server_warnings(api)
    name, append = settings.milvus.collection, not mode_of(settings).one_version
    stamp = open_existing(settings, api, model)
    kafka, cutter = kafka_settings(settings), chunker(settings, model)
    now_ms = time.time_ns() // 1_000_000
    skew_ms = round(settings.partitioning.future_skew.total_seconds() * 1000)
    decision = ReplayedDecision(decoder(settings), partitioning(settings), skew_ms, now_ms)
    retention = settings.milvus.tombstone_retention
    configured = AuditSettings(
        kafka=kafka,
        rejected_positions=partial(rejected_positions, kafka, settings.kafka.dead_letter_topic),
        collection=name,
        partitioning=partitioning(settings),
        fingerprint=fingerprint(settings, model),
        append_ids=stamp.append_ids if append else None,
        former_topic_ids=topic_ids_seen(Marks(api, name)) if append and stamp.collection_id else {},
        deletes_kept_from_ms=0 if retention is None else now_ms - round(retention.total_seconds() * 1000),
        limit=limit,
    )
    with ExitStack() as stack:
        workspace = stack.enter_context(open_workspace())
        repairer = None
        if repair:
            member = stack.enter_context(closing(JobMembership(kafka, name, "repair")))
            member.join(on_wait=on_progress)
            live = LiveGroup(stack.enter_context(closing(GroupWatch(kafka))).active)
            repairer = Repairer(
                kafka.group_id,
                api,
                name,
                records_at=partial(records_at, kafka),
                decision=decision,
                chunker=cutter,
                model=model,
                writer=lambda ledger: new_writer(
                    settings, api, model, MilvusPartitions(api, name), append_ids=stamp.append_ids, ledger=ledger
                ),
                live=live,
                check_member=member.check,
                append=append,
                flush=settings.milvus.durability == "flush",
            )
            api.fence(partial(_left_s, repairer, member))
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


def _left_s(repairer: Repairer, member: JobMembership) -> float:
    """The seconds in which neither a worker nor another job writes the collection."""
    left_s = repairer.left_s()
    return min(left_s, member.left_s())
