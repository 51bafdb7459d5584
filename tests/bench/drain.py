"""A backlog of real documents: the worker against two loops without it and against its own embedding engine."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from tests.bench.children import Contender, contender
from tests.bench.corpus import MARKERS, BenchDocument, longer, spread
from tests.bench.report import Target, middle, say, show_disturbance, show_table
from tests.bench.stage import Stage
from tests.bench.stage_clock import NATIVE

CONTENDERS = ("naive", "openvino_loop", "ours", "append", "bare")
"""`append` is ours without the ledger: what exactness costs. `openvino_loop` is there where OpenVINO runs the model."""
_CUT_OFF = ("naive", "openvino_loop")
"""Those that embed only what the model reads of a text at once."""
SETS = ("fitting", "mixed")
"""Documents of one chunk each, and documents of every length."""

TIMES = 4
"""How many times as many documents ours drain as the naive loop: starting and ending, a second, is not to count."""

WANTED_WITH_BF16, WANTED_WITHOUT_BF16 = 2.5, 1.5
WANTED_OF_LOOP = {"fitting": 1.1, "mixed": 1.15}
"""Of the plain OpenVINO loop's documents/s, and of its tokens/s."""
WANTED_SHARE = 0.95
WANTED_OF_APPEND = 0.97

Figures = dict[str, dict[str, list[dict[str, Any]]]]
"""By set and contender: one entry a round."""


def measure(stage: Stage, documents: int, rounds: int) -> Figures:
    """Let each contender drain each set once a round, in an order that turns from round to round.

    `documents` are those of the naive loop.
    """
    assert stage.model is not None
    contenders = [name for name in CONTENDERS if name != "openvino_loop" or stage.model["prepared"]]
    sets = choose(stage.documents(), documents)
    found: Figures = {name: {each: [] for each in contenders} for name in sets}
    for number in range(rounds):
        turn = number % len(contenders)
        with stage.names() as names:
            topics = {(name, times): names.topic() for name in sets for times in {1, TIMES}}
            for (name, times), topic in topics.items():
                stage.publish(topic, spread(longer(sets[name], times), datetime.now(UTC)))
            for each in (*contenders[turn:], *contenders[:turn]):
                with _started(stage, each) as process:
                    times = 1 if each == "naive" else TIMES
                    for name, chosen in sets.items():
                        count = times * len(chosen)
                        job = names.job(topics[name, times], count)
                        process.prepare({**job, "ids": [document.id for document in chosen], "times": times})
                        figures = stage.run(process)
                        found[name][each].append({**figures, "tokens": times * tokens(stage, each, chosen)})
                        rate = count / figures["seconds"]
                        others = f"other programs: {figures['other_cores']:.1f} cores"
                        say(f"round {number + 1}/{rounds}: {each}, {name}: {rate:.0f} documents/s ({others})")
    return found


def _started(stage: Stage, each: str) -> AbstractContextManager[Contender]:
    if each == "append":
        return contender("ours", stage.for_contender({**stage.settings, "mode": "append"}), stage.folder)
    return contender(each, stage.for_contender(), stage.folder)


def choose(documents: Sequence[BenchDocument], count: int) -> dict[str, list[BenchDocument]]:
    """`count` documents for each set, in the order of the file."""
    fitting = [document for document in documents if document.chunks == 1][:-MARKERS]
    return {"fitting": fitting[:count], "mixed": list(documents[:count])}


def tokens(stage: Stage, each: str, documents: Sequence[BenchDocument]) -> int:
    """Tokens that went through the model, without special tokens and padding."""
    assert stage.model is not None
    limit = stage.model["max_tokens"]
    return sum(min(document.tokens, limit) if each in _CUT_OFF else document.embedded for document in documents)


def summarize(found: Figures) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken round by round, then their median."""
    summary: dict[str, Any] = {}
    for name, by_contender in found.items():
        entry: dict[str, Any] = {}
        for each, rounds in by_contender.items():
            records = rounds[0]["records"]  # others than the naive loop's
            entry[each] = {
                "documents": records,
                "documents_per_s": middle([records / one["seconds"] for one in rounds]),
                "documents_per_s_rounds": [round(records / one["seconds"], 1) for one in rounds],
                "tokens_per_s": middle([one["tokens"] / one["seconds"] for one in rounds]),
                "cpu_s_per_1000_documents": middle([1000 * one["cpu_s"] / records for one in rounds]),
                "peak_rss_mib": middle([one["peak_rss_bytes"] / 2**20 for one in rounds]),
            }
        entry["other_cores_rounds"] = {
            each: [round(one["other_cores"], 2) for one in rounds] for each, rounds in by_contender.items()
        }
        entry["threads_cpu_s"] = by_contender["ours"][-1]["threads"]
        entry["cores"] = _cores(by_contender["ours"][-1])
        entry["ratio_documents"] = _ratio(by_contender, "naive", _documents_per_s)
        entry["ratio_tokens"] = _ratio(by_contender, "naive", _tokens_per_s)
        entry["ratio_cpu"] = _ratio(by_contender, "naive", lambda one: one["tokens"] / one["cpu_s"])
        if "openvino_loop" in by_contender:
            entry["of_openvino_loop"] = {
                "documents": _ratio(by_contender, "openvino_loop", _documents_per_s),
                "tokens": _ratio(by_contender, "openvino_loop", _tokens_per_s),
            }
        entry["ledger_share_of_drain"] = 1 - _ratio(by_contender, "append", _documents_per_s)
        entry["share_of_bare_engine_cpu"] = _ratio(by_contender, "bare", lambda one: one["records"] / one["cpu_s"])
        entry["share_of_bare_engine"] = _ratio(by_contender, "bare", _documents_per_s)
        summary[name] = entry
    return summary


def _cores(ours: Mapping[str, Any]) -> dict[str, float]:
    """Cores kept busy during a drain: by the model, by the rest of the worker, by the servers where they are here."""
    model = sum(ours["threads"].get(name, 0.0) for name in ("embed", NATIVE))
    used = {"model": model, "rest of the worker": ours["cpu_s"] - model, **ours.get("servers_cpu_s", {})}
    return {name: round(seconds / ours["seconds"], 2) for name, seconds in used.items()}


def _documents_per_s(one: Mapping[str, Any]) -> float:
    return float(one["records"] / one["seconds"])


def _tokens_per_s(one: Mapping[str, Any]) -> float:
    return float(one["tokens"] / one["seconds"])


def _ratio(by_contender: Mapping[str, Any], baseline: str, rate: Any) -> float:
    pairs = zip(by_contender["ours"], by_contender[baseline], strict=True)
    return middle([rate(ours) / rate(other) for ours, other in pairs])


def targets(summary: Mapping[str, Any], machine: Mapping[str, Any]) -> list[Target]:
    """What the issue asks of this machine; on a GPU it asks for no ratio to the naive loop."""
    found = []
    for wanted, kind in _kinds(machine):
        name = f"against the naive loop ({kind})"
        found += [
            Target(f"documents/s, one chunk each, {name}", summary["fitting"]["ratio_documents"], wanted),
            Target(f"tokens/s, every length, {name}", summary["mixed"]["ratio_tokens"], wanted),
        ]
    for (name, wanted), per in zip(WANTED_OF_LOOP.items(), ("documents", "tokens"), strict=True):
        if (ratios := summary[name].get("of_openvino_loop")) is not None:
            found.append(Target(f"{per}/s as a multiple of the plain OpenVINO loop's, {name}", ratios[per], wanted))
    for name in SETS:
        share = summary[name]["share_of_bare_engine"]
        found.append(Target(f"end to end as a share of the bare engine's rate, {name}", share, WANTED_SHARE))
        kept = 1 - summary[name]["ledger_share_of_drain"]
        found.append(Target(f"upsert mode as a share of append mode's rate, {name}", kept, WANTED_OF_APPEND))
    return found


def _kinds(machine: Mapping[str, Any]) -> list[tuple[float, str]]:
    if machine["model"]["device"] != "cpu":
        return []
    if not machine["native_bf16"]:
        return [(WANTED_WITHOUT_BF16, "no native bf16")]
    if machine["bf16_gain"] > 1.0:
        return [(WANTED_WITH_BF16, "native bf16")]
    # The instructions are there and lose to float32: measured against both, so that nobody has to take our word.
    slower = f"native bf16, at {machine['bf16_gain']} times float32's speed"
    return [(WANTED_WITH_BF16, slower), (WANTED_WITHOUT_BF16, "as without native bf16")]


def show(out: Console, summary: Mapping[str, Any], dtype: str) -> None:
    """One table for each set."""
    titles = {"fitting": "one chunk each", "mixed": "of every length (both loops cut off what does not fit)"}
    for name, entry in summary.items():
        rows = [
            {
                "": f"{each} ({dtype})" if each != "naive" else "naive (float32)",
                "documents/s": entry[each]["documents_per_s"],
                "tokens/s": entry[each]["tokens_per_s"],
                "CPU s / 1,000 documents": entry[each]["cpu_s_per_1000_documents"],
                "peak RSS MiB": entry[each]["peak_rss_mib"],
                "rounds, documents/s": " ".join(map(str, entry[each]["documents_per_s_rounds"])),
            }
            for each in CONTENDERS
            if each in entry
        ]
        show_table(out, f"drain, {entry['ours']['documents']} documents {titles[name]}", rows)
        loop = entry.get("of_openvino_loop", {})
        of_loop = ", ".join(f"{ratio:.2f} in {per}/s" for per, ratio in loop.items())
        out.print(
            f"ours / plain OpenVINO loop: {of_loop or 'not applicable here'}; "
            f"ours / naive: {entry['ratio_documents']:.2f} in documents/s, {entry['ratio_tokens']:.2f} in tokens/s, "
            f"{entry['ratio_cpu']:.2f} in tokens per CPU s; ours / bare engine: {entry['share_of_bare_engine']:.2f}, "
            f"{entry['share_of_bare_engine_cpu']:.2f} by the worker's processor time; cores busy: {entry['cores']}; "
            f"the ledger's share of the drain: {entry['ledger_share_of_drain']:.1%}; "
            f"CPU s by thread of ours: {entry['threads_cpu_s']}"
        )
        show_disturbance(out, [cores for each in entry["other_cores_rounds"].values() for cores in each])


def quick_rate(stage: Stage, documents: int) -> float:
    """Documents per second of one drain of the mixed set: for the freshness part without a drain before it."""
    with ExitStack() as stack:
        names = stack.enter_context(stage.names())
        chosen = choose(stage.documents(), documents)["mixed"]
        topic = names.topic()
        stage.publish(topic, spread(chosen, datetime.now(UTC)))
        process = stack.enter_context(contender("ours", stage.for_contender(), stage.folder))
        process.prepare(names.job(topic, len(chosen)))
        return len(chosen) / float(process.go()["seconds"])
