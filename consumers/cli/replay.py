"""`milvus-stream replay`: plan a bounded replay, show the plan, run it."""

import time
from contextlib import ExitStack, closing

from rich.console import Console

from consumers.cli.common.output import progress_line, stderr, stdout, table
from consumers.cli.common.signals import StopSignals
from consumers.config import Settings
from consumers.http import ProbeServer, exposition
from consumers.kafka import JobMembership, TimeRange, parse_time_range
from consumers.replay import (
    Estimate,
    ReplayPlan,
    ReplaySummary,
    empty_summary,
    estimate_work,
    finish_replay,
    group_name,
    plan_replay,
)
from consumers.wiring import connections, documents
from consumers.wiring.ingest import ingest_metrics
from consumers.wiring.replay import replay_process
from consumers.wiring.start_checks import check_replay
from consumers.wiring.telemetry import probe_listener
from consumers.wiring.validation import check_settings
from pipeline.embedding import Embedder


def plan_only(settings: Settings, target: Settings, from_: str, to: str, rate: float | None) -> ReplayPlan:
    """What the replay would do; changes nothing. `target`: `settings` with the collection to be written."""
    times = parse_time_range(from_, to)
    check_settings(target)
    plan = _plan(settings, target, times, rate)
    if not plan.records:
        return plan
    # The chunks are counted by the model's tokenizer, and the minutes by its speed on a sample.
    with documents.embedder(target) as model:
        return _estimated(plan, settings, target, model)


def run(
    settings: Settings, target: Settings, from_: str, to: str, rate: float | None, stop: StopSignals
) -> ReplaySummary:
    """Plan, show the plan on stderr, and replay until the end of the range or `stop`.

    Raises MilvusStreamError while another job writes the collection, MembershipLost if that may have begun.
    """
    times = parse_time_range(from_, to)
    check_settings(target)
    metrics = ingest_metrics()
    kafka, collection = connections.kafka_settings(settings), target.milvus.collection
    with ExitStack() as stack:
        probes = stack.enter_context(ProbeServer("replay", probe_listener(target), exposition(metrics.registry)))
        # Left after Milvus: a request that is under way at the end is still that of this job.
        member = stack.enter_context(closing(JobMembership(kafka, collection, "replay")))
        api = stack.enter_context(connections.milvus(target, metrics.observe_sink))
        check_replay(settings, target, api)
        stop.end_in_order()
        with progress_line() as progress:
            joined = member.join(stop, progress)
        if not joined:
            return empty_summary(
                collection, group_name(kafka.group_id, collection, kafka.topics, times), finished=False
            )
        stop.end_at_once()
        plan = _plan(settings, target, times, rate)
        if not plan.records:
            show_plan(plan, stderr())
            finish_replay(kafka, plan)
            return empty_summary(collection, plan.span.group_id, finished=True)
        model = stack.enter_context(documents.embedder(target))
        plan = _estimated(plan, settings, target, model)
        show_plan(plan, stderr())
        process = stack.enter_context(replay_process(target, plan, api, model, metrics=metrics, member=member))
        probes.watch(alive=process.worker.alive, ready=process.worker.ready)
        stop.end_in_order()
        with progress_line() as progress:
            return process.run(stop, progress)


def _plan(settings: Settings, target: Settings, times: TimeRange, rate: float | None) -> ReplayPlan:
    collection = target.milvus.collection
    live = collection == settings.milvus.collection
    return plan_replay(connections.kafka_settings(settings), times, collection, live=live, rate=rate)


def _estimated(plan: ReplayPlan, settings: Settings, target: Settings, model: Embedder) -> ReplayPlan:
    return estimate_work(
        plan,
        connections.kafka_settings(settings),
        decoder=documents.decoder(target),
        chunker=documents.chunker(target, model),
        embed=model.embed,
        now_ms=time.time_ns() // 1_000_000,
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
