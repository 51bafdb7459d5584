"""What the pipeline itself costs: small records, no model; appended, and upserted with a ledger."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from tests.bench.children import contender
from tests.bench.corpus import small_records
from tests.bench.report import Target, middle, show_disturbance, show_table
from tests.bench.stage import Stage, say

RECORD_BYTES = 300
WANTED_PER_S = 15_000
WANTED_UPSERT_PER_S = 5000
UPSERTS = ("upsert new", "upsert unchanged", "upsert moved")


def measure(stage: Stage, records: int, rounds: int) -> list[dict[str, Any]]:
    """Drain a topic of small records with one worker; once a round, each with a fresh group and collection."""
    settings = {**stage.settings, "mode": "append", "embedding": {"model": "hash:384"}}
    found = []
    with stage.names() as names:
        topic = names.topic()
        say(f"publishing {records} records of {RECORD_BYTES} bytes")
        stage.publish(topic, small_records(records, RECORD_BYTES))
        for number in range(rounds):
            # The rows of a round are gone before the next: Milvus would index them beside it.
            with stage.names() as mine, contender("ours", stage.for_contender(settings), stage.folder) as process:
                process.prepare(mine.job(topic, records))
                figures = stage.run(process)
            found.append(figures)
            say(f"round {number + 1}/{rounds}: hash, append: {figures['steady_rate']:.0f} records/s")
    return found


def measure_upserts(stage: Stage, records: int, rounds: int) -> dict[str, list[float]]:
    """Records/s with one worker: documents never seen, the same records again, and each moved to another day."""
    settings = {**stage.settings, "embedding": {"model": "hash:384"}}
    found: dict[str, list[float]] = {kind: [] for kind in UPSERTS}
    with stage.names() as names:
        first, moved = names.topic(), names.topic()
        say(f"publishing twice {records} records of {RECORD_BYTES} bytes")
        stage.publish(first, small_records(records, RECORD_BYTES))
        stage.publish(moved, small_records(records, RECORD_BYTES, days_ago=1))
        for number in range(rounds):
            with stage.names() as mine, contender("ours", stage.for_contender(settings), stage.folder) as process:
                new = mine.job(first, records)
                again = {**new, "group": f"{new['group']}-2"}
                jobs = (new, again, {**again, "topic": moved, "group": f"{new['group']}-3"})
                for kind, job in zip(UPSERTS, jobs, strict=True):
                    process.prepare(job)
                    found[kind].append(stage.run(process)["steady_rate"])
            rates = ", ".join(f"{kind} {found[kind][-1]:.0f}" for kind in UPSERTS)
            say(f"round {number + 1}/{rounds}: hash, records/s: {rates}")
    return found


def summarize(rounds: list[dict[str, Any]], upserts: Mapping[str, list[float]], cores: int) -> dict[str, Any]:
    """Medians over the rounds; processor time in cores busy over the whole drain of the last round."""
    last = rounds[-1]
    summary = {
        "records": last["records"],
        "records_per_s_steady": middle([one["steady_rate"] for one in rounds]),
        "records_per_s_rounds": [round(one["steady_rate"]) for one in rounds],
        "records_per_s_with_start_and_end": middle([one["records"] / one["seconds"] for one in rounds]),
        "upserts_per_s": {kind: middle(rates) for kind, rates in upserts.items()},
        "upserts_per_s_rounds": {kind: [round(rate) for rate in rates] for kind, rates in upserts.items()},
        "worker_cores": middle([one["steady_cores"] for one in rounds]),
        "other_cores_rounds": [round(one["other_cores"], 2) for one in rounds],
        "upsert_share": middle([one["upsert_s"] / one["seconds"] for one in rounds]),
        "cpu_s_per_1000_records": middle([1000 * one["cpu_s"] / one["records"] for one in rounds]),
        "peak_rss_mib": middle([one["peak_rss_bytes"] / 2**20 for one in rounds]),
        "thread_cores": {name: round(s / last["seconds"], 2) for name, s in last["threads"].items()},
        "server_cores": {name: round(s / last["seconds"], 2) for name, s in last["servers_cpu_s"].items()},
    }
    return {**summary, "limit": limit(summary, cores)}


def targets(summary: Mapping[str, Any]) -> list[Target]:
    """What the issue asks for."""
    append = Target("records/s of one worker, hash:384, append mode", summary["records_per_s_steady"], WANTED_PER_S)
    upserts = [
        Target(f"records/s of one worker, hash:384, {kind}", rate, WANTED_UPSERT_PER_S)
        for kind, rate in summary["upserts_per_s"].items()
    ]
    return [append, *upserts]


def show(out: Console, summary: Mapping[str, Any]) -> None:
    """The rate, and where the time goes."""
    row = {
        "records/s, steady": summary["records_per_s_steady"],
        "with start and end": summary["records_per_s_with_start_and_end"],
        "CPU s / 1,000 records": summary["cpu_s_per_1000_records"],
        "peak RSS MiB": summary["peak_rss_mib"],
        "rounds": " ".join(map(str, summary["records_per_s_rounds"])),
    }
    for kind, rate in summary["upserts_per_s"].items():
        out.print(f"{kind}: {rate:,.0f} records/s (rounds: {summary['upserts_per_s_rounds'][kind]})")
    show_table(out, f"hash:384, append mode, {summary['records']} records of {RECORD_BYTES} bytes", [row])
    out.print(
        f"cores busy in the worker: {summary['worker_cores']:.2f} when steady; by thread over the whole drain: "
        f"{summary['thread_cores']}; servers: {summary['server_cores']}"
    )
    out.print(f"an upsert to Milvus is under way {summary['upsert_share']:.0%} of the time; limit: {summary['limit']}")
    show_disturbance(out, summary["other_cores_rounds"])


def limit(summary: Mapping[str, Any], cores: int) -> str:
    """What holds the worker back."""
    busy = summary["worker_cores"] + sum(summary["server_cores"].values())
    if summary["server_cores"] and busy > 0.85 * cores:
        return f"the processors: worker and servers together keep {busy:.1f} of {cores} cores busy"
    if summary["upsert_share"] > 0.7:
        return "Milvus's answers, which the write stage waits for one at a time"
    if summary["worker_cores"] > 0.85:
        return "Python's lock: the worker's threads together keep about one core busy"
    return "neither Milvus nor Python's lock alone"
