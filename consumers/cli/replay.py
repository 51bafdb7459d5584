"""`milvus-stream replay`: plan a bounded replay, show the plan, run it."""

import threading
import time
from contextlib import closing

from rich.console import Console

from consumers.cli.common.output import progress_line, stderr, stdout, table
from consumers.config import Settings
from consumers.http import ProbeServer, exposition
from consumers.kafka import JobMembership, TimeRange, parse_time_range
from consumers.replay import Estimate, ReplayPlan, ReplaySummary, empty_summary, finish_replay, group_name, plan_replay
from consumers.wiring import connections, documents
from consumers.wiring.ingest import ingest_metrics
from consumers.wiring.replay import replay_process
from consumers.wiring.telemetry import probe_listener
from pipeline.embedding import Embedder


def plan_only(settings: Settings, target: Settings, from_: str, to: str, rate: float | None) -> ReplayPlan:
    """What the replay would do; changes nothing. `target`: `settings` with the collection to be written."""
    times = parse_time_range(from_, to)
    with documents.embedder(target) as model:
        return _plan(settings, target, times, model, rate)


def run(
    settings: Settings, target: Settings, from_: str, to: str, rate: float | None, stop: threading.Event
) -> ReplaySummary:
    """Plan, show the plan on stderr, and replay until the end of the range or `stop`.

    Raises MilvusStreamError while another job writes the collection, MembershipLost if that may have begun.
    """
    times = parse_time_range(from_, to)
    metrics = ingest_metrics()
    kafka, collection = connections.kafka_settings(settings), target.milvus.collection
    with (
        ProbeServer(
            "replay", probe_listener(target), exposition(metrics.registry)
        ) as probes,  # before the model is loaded
        closing(JobMembership(kafka, collection, "replay")) as member,
    ):
        with progress_line() as progress:
            joined = member.join(stop, progress)
        if not joined:
            return empty_summary(
                collection, group_name(kafka.group_id, collection, kafka.topics, times), finished=False
            )
        with documents.embedder(target) as model:
            plan = _plan(settings, target, times, model, rate)
            show_plan(plan, stderr())
            if not plan.records:
                finish_replay(kafka, plan)
                return empty_summary(collection, plan.span.group_id, finished=True)
            with (
                connections.milvus(target, metrics.observe_sink) as api,
                replay_process(target, plan, api, model, metrics=metrics, member=member) as process,
                progress_line() as progress,
            ):
                probes.watch(alive=process.worker.alive, ready=process.worker.ready)
                return process.run(stop, progress)


def _plan(settings: Settings, target: Settings, times: TimeRange, model: Embedder, rate: float | None) -> ReplayPlan:
    return plan_replay(
        connections.kafka_settings(settings),
        times,
        target.milvus.collection,
        live=target.milvus.collection == settings.milvus.collection,
        decoder=documents.decoder(target),
        chunker=documents.chunker(target, model),
        embed=model.embed,
        now_ms=time.time_ns() // 1_000_000,
        rate=rate,
    )


def show_plan(plan: ReplayPlan, console: Console | None = None) -> None:
    """Print the plan (on stdout), with what the user should know before it begins."""
    console = console or stdout()
    resumed = "; resumes where an earlier run stopped" if plan.span.resumed else ""
    first, last = plan.times.text()
    console.print(f"replay of {first} to {last} into {plan.collection} (group {plan.span.group_id}{resumed})")
    rows: list[tuple[object, ...]] = []
    for (topic, number), offsets in sorted(plan.span.ranges.items()):
        estimate = plan.estimates.get((topic, number), Estimate(0, 0))
        span = f"{offsets.position}-{offsets.end}"
        rows.append((f"{topic}/{number}", span, offsets.records, estimate.bytes, estimate.chunks))
    estimates = plan.estimates.values()
    rows.append(("in all", "", plan.records, sum(e.bytes for e in estimates), sum(e.chunks for e in estimates)))
    console.print(table(("partition", "offsets", "records", "est. bytes", "est. chunks"), rows))
    if plan.minutes is not None:
        basis = "by the model's speed on a sample" if plan.rate is None else f"at {plan.rate:g} records/s at most"
        console.print(f"estimated: {plan.minutes:.1f} minutes, {basis}; what is stored already goes faster")
    for note in plan.warnings():
        console.print(f"warning: {note}")
