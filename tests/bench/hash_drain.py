"""What the pipeline itself costs: small records, no model; appended, and upserted with a ledger."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from tests.bench.children import contender
from tests.bench.corpus import small_records
from tests.bench.report import Target, middle, say, show_disturbance, show_table
from tests.bench.stage import Stage

RECORD_BYTES = 300
WANTED_PER_S = 15_000
WANTED_UPSERT_PER_S = 5000
WANTED_GAIN = 1.7
"""Of a second worker."""
WANTED_CORES = 4
"""Of the machine for which these are wanted; the servers are on it, too."""
UPSERTS: Mapping[str, tuple[int | None, str]] = {
    "upsert new": (0, ""),
    "upsert redone": (None, "-2"),
    "upsert unchanged": (0, ""),
    "upsert moved": (1, ""),
}
"""What the records of a drain are, by the days that they lie back and the end of the group's name.

Documents never seen; the same records read again by another group, as after a crash; published again with the same
content; published again with another day, so that their rows move.
"""


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
    """Records/s with one worker and one topic: the kinds of `UPSERTS`."""
    settings = {**stage.settings, "embedding": {"model": "hash:384"}}
    found: dict[str, list[float]] = {kind: [] for kind in UPSERTS}
    for number in range(rounds):
        with stage.names() as mine, contender("ours", stage.for_contender(settings), stage.folder) as process:
            topic = mine.topic()
            job, end = mine.job(topic, records), 0
            for kind, (days_ago, group) in UPSERTS.items():
                if days_ago is not None:
                    stage.publish(topic, small_records(records, RECORD_BYTES, days_ago=days_ago))
                    end += records
                process.prepare({**job, "group": job["group"] + group, "end": end})
                found[kind].append(stage.run(process)["steady_rate"])
        rates = ", ".join(f"{kind} {found[kind][-1]:.0f}" for kind in UPSERTS)
        say(f"round {number + 1}/{rounds}: hash, records/s: {rates}")
    return found


def measure_two(stage: Stage, records: int, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Drain a topic of small records with one worker and with two of one group, in turns; append mode."""
    settings = {**stage.settings, "mode": "append", "embedding": {"model": "hash:384"}}
    found: dict[str, list[dict[str, Any]]] = {"one": [], "two": []}
    with stage.names() as names:
        topic = names.topic()
        say(f"publishing {records} records of {RECORD_BYTES} bytes")
        stage.publish(topic, small_records(records, RECORD_BYTES))
        for number in range(rounds):
            for each in ("one", "two") if number % 2 == 0 else ("two", "one"):
                with stage.names() as mine, ExitStack() as stack:
                    arguments = stage.for_contender(settings)
                    count = 1 if each == "one" else 2
                    workers = [stack.enter_context(contender("ours", arguments, stage.folder)) for _ in range(count)]
                    job = {**mine.job(topic, records), "shared": count > 1}
                    for worker in workers:
                        worker.prepare(job)
                    figures = stage.run_together(workers)
                if sum(one["stored"] for one in figures) < records:
                    raise RuntimeError(f"{records} records are there, less is stored: {figures}")
                rate = together([one["progress"] for one in figures])
                found[each].append(
                    {
                        "rate": rate,
                        "worker_cores": sum(one["cpu_s"] / one["seconds"] for one in figures),
                        "seconds": max(one["seconds"] for one in figures),
                        **{name: figures[0][name] for name in ("servers_cpu_s", "other_cores")},
                        "upsert_share": middle([one["upsert_s"] / one["seconds"] for one in figures]),
                    }
                )
                say(f"round {number + 1}/{rounds}: hash, append, workers: {each}: {rate:.0f} records/s")
    return found


def together(progress: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Records per second of all workers, from 10 to 90 % of what they did: all of them are busy then."""
    moments = sorted({at for samples in progress for at, _ in samples})
    done = [sum(_done(samples, at) for samples in progress) for at in moments]
    low, high = 0.1 * done[-1], 0.9 * done[-1]
    steady = [(at, count) for at, count in zip(moments, done, strict=True) if low <= count <= high]
    first, last = steady[0], next(sample for sample in steady if sample[1] == steady[-1][1])
    return (last[1] - first[1]) / (last[0] - first[0])


def _done(samples: Sequence[tuple[float, int]], at: float) -> int:
    return next((count for moment, count in reversed(samples) if moment <= at), 0)


def summarize_two(found: Mapping[str, list[dict[str, Any]]], cores: int) -> dict[str, Any]:
    """Medians over the rounds; the gain of the second worker round by round, then the median."""
    busy = {each: _busy(rounds) for each, rounds in found.items()}
    return {
        **{each: middle([one["rate"] for one in rounds]) for each, rounds in found.items()},
        **{f"{each}_rounds": [round(one["rate"]) for one in rounds] for each, rounds in found.items()},
        "gain": middle([two["rate"] / one["rate"] for one, two in zip(found["one"], found["two"], strict=True)]),
        "busy": busy,
        "limits": {each: limit(busy[each], cores, workers) for workers, each in enumerate(("one", "two"), 1)},
        "other_cores_rounds": [round(one["other_cores"], 2) for rounds in found.values() for one in rounds],
    }


def _busy(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    servers = rounds[-1]["servers_cpu_s"].items()
    return {
        "worker_cores": middle([one["worker_cores"] for one in rounds]),
        "server_cores": {name: round(used / rounds[-1]["seconds"], 2) for name, used in servers},
        "upsert_share": middle([one["upsert_share"] for one in rounds]),
    }


def show_two(out: Console, summary: Mapping[str, Any]) -> None:
    """One row for each number of workers."""
    rows = [
        {"workers": each, "records/s, steady": summary[each], "rounds": " ".join(map(str, summary[f"{each}_rounds"]))}
        for each in ("one", "two")
    ]
    show_table(out, f"hash:384, append mode, records of {RECORD_BYTES} bytes", rows)
    for each, busy in summary["busy"].items():
        out.print(
            f"workers: {each}; cores busy: workers {busy['worker_cores']:.2f}, servers {busy['server_cores']}; an "
            f"upsert is under way {busy['upsert_share']:.0%} of a worker's time; limit: {summary['limits'][each]}"
        )
    show_disturbance(out, summary["other_cores_rounds"])


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


def limit(summary: Mapping[str, Any], cores: int, workers: int = 1) -> str:
    """What holds the workers back."""
    busy = summary["worker_cores"] + sum(summary["server_cores"].values())
    if summary["server_cores"] and busy > 0.85 * cores:
        return f"the processors: worker and servers together keep {busy:.1f} of {cores} cores busy"
    if summary["upsert_share"] > 0.7:
        return "Milvus's answers, which the write stage waits for one at a time"
    if summary["worker_cores"] > 0.85 * workers:
        return "Python's lock: the worker's threads together keep about one core busy"
    return "neither Milvus nor Python's lock alone"
