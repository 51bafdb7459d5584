"""The replay job: an ingest worker over a bounded range."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import version

from consumers.config import Settings
from consumers.kafka import GroupWatch, JobMembership, LiveGroup
from consumers.replay import GuardedWriter, RejectedLog, ReplayPlan, ReplayProcess, ReplaySource
from consumers.wiring.collection import open_configured, open_writer
from consumers.wiring.connections import kafka_settings
from consumers.wiring.ingest import WorkerParts, join_worker
from consumers.wiring.modes import mode_of
from pipeline.embedding import Embedder
from pipeline.ingest import CommitQueue
from pipeline.store import STALENESS_S, Ledger, MilvusServerApi, WritePolicy
from pipeline.telemetry import IngestMetrics


@contextmanager
def replay_process(
    settings: Settings,
    plan: ReplayPlan,
    api: MilvusServerApi,
    model: Embedder,
    *,
    metrics: IngestMetrics,
    member: JobMembership,
) -> Iterator[ReplayProcess]:
    """Build a replay of `plan`, which must have something to read, into the configured collection.

    `member` has joined, and `check_replay` has been called. Raises the errors of `ingest_worker`.
    """
    metrics.build.labels(version("milvus-stream"), model.stamp.name).set(1)
    kafka = kafka_settings(settings)
    receipts = CommitQueue()
    stamp = open_configured(settings, api, model)
    span = plan.span.into(settings.milvus.collection, stamp.collection_id)
    range_source = ReplaySource(kafka, span, member, rate=plan.rate)
    rejected = RejectedLog(receipts.put)
    live = plan.live and mode_of(settings).one_version
    writer = open_writer(settings, api, model, metrics, stamp=stamp, verify=not live)
    left_s: Callable[[], float] = lambda: math.inf  # noqa: E731 - replaced below
    with ExitStack() as stack:
        if live:
            name = settings.milvus.collection

            def ledger(strong: bool) -> Ledger:
                return Ledger(api, name, WritePolicy(), staleness_s=STALENESS_S if strong else 0.0)

            live_group = LiveGroup(stack.enter_context(closing(GroupWatch(kafka))).active)
            stack.enter_context(live_group.followed())
            writer = guarded = GuardedWriter(writer, ledger, live_group)
            left_s = guarded.left_s
        # No limit: the range was within it, or the worker stopped, when it was ingested. Its rejected records are
        # counted.
        parts = WorkerParts(
            api=api,
            model=model,
            source=range_source,
            writer=writer,
            dead_letters=rejected,
            receipts=receipts,
            metrics=metrics,
            left_s=left_s,
        )
        worker, _ = join_worker(settings, parts, until_caught_up=True)
        yield ReplayProcess(kafka, plan, range_source, worker, rejected, metrics.outcomes)
