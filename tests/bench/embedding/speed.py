"""How fast: the engine against `encode`, untouched and tuned, and against the matrix-product peak of the same cores."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from tests.bench.children import Contender, contender
from tests.bench.embedding.place import Place
from tests.bench.embedding.rows import Row
from tests.bench.report import busy_s, middle, say, show_disturbance, show_table

KINDS = ("mixed", "short")
BATCHES = (4, 8, 16, 32, 64)
UNTOUCHED, TUNED = "encode, untouched", "encode, best tuned"
ENGINE, ENGINE_FP32, COMPILED = "engine", "engine, float32", "engine, compiled"
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    ENGINE: {"dtype": "auto", "compile": False},
    ENGINE_FP32: {"dtype": "float32", "compile": False},
    COMPILED: {"dtype": "auto", "compile": True},
}
ONE, ALL = "one thread", "all cores"
_PER = {ONE: "documents per core-second", ALL: "documents per second"}
_FINALISTS = 2
_SWEPT = 0.5
"""Of the texts, in the sweep."""


@dataclass(frozen=True, slots=True)
class Leg:
    """What was measured with one kind of text on one or all cores; every list has an entry a round."""

    mode: str
    kind: str
    rates: Mapping[str, list[float]]
    """By contender; with one thread by processor time, so that neighbours do not count."""
    best: str
    """The settings of the best tuned `encode`."""
    shares: list[float]
    """The engine's operations as a share of the peak of the same round."""
    peak: float
    execution: Mapping[str, Any]
    load_s: Mapping[str, float]
    """What loading each of ours took."""
    other_cores: float
    """Most that other programs kept busy."""

    def ratio(self, ours: str, other: str) -> float:
        """The median of the rounds' ratios."""
        return middle([mine / theirs for mine, theirs in zip(self.rates[ours], self.rates[other], strict=True)])

    def ratios(self, ours: str, other: str) -> str:
        """Those of the rounds, for the note."""
        pairs = zip(self.rates[ours], self.rates[other], strict=True)
        return "rounds " + ", ".join(f"{mine / theirs:.2f}" for mine, theirs in pairs)


@dataclass(slots=True)
class _Runner:
    """The two contenders' processes, and what other programs took meanwhile."""

    encode: Contender
    engine: Contender
    cores: int
    count: int
    other_cores: float = field(default=0.0)

    def rate(self, name: str, kind: str, mode: str, count: int | None = None) -> tuple[float, dict[str, Any]]:
        """Let a contender embed the texts: documents per core-second or second, and its figures."""
        job = {"kind": kind, "count": count or self.count}
        if name in _SETTINGS:
            process, job = self.engine, {**job, **_SETTINGS[name], "do": "embed", "threads": self._threads(mode)}
        else:
            dtype, _, batch = ("untouched", "", "") if name == UNTOUCHED else name.partition(" ")
            job |= {"dtype": dtype, "batch": int(batch) if batch else None}
            process, job = self.encode, {**job, "threads": 1 if mode == ONE else self.cores}
        process.prepare(job)
        before = busy_s()
        figures = process.go()
        others = (busy_s() - before - figures["cpu_s"]) / figures["seconds"]
        self.other_cores = max(self.other_cores, others)
        return figures["documents"] / figures["cpu_s" if mode == ONE else "seconds"], figures

    def ask(self, what: str, kind: str, mode: str) -> dict[str, Any]:
        """The engine's `peak` or `profile`."""
        job = {"kind": kind, "count": self.count, "threads": self._threads(mode)}
        self.engine.prepare({**job, **_SETTINGS[ENGINE], "do": what})
        return self.engine.go()

    def _threads(self, mode: str) -> int:
        return 1 if mode == ONE else self.cores


def measure(place: Place, rounds: int, count: int) -> dict[str, Any]:
    """Sweep `encode` once, then let all contenders embed the same texts once a round, in turns."""
    bf16 = place.machine["usable_bf16"]
    given = {**place.arguments(), "dtypes": ["float32", "bfloat16"] if bf16 else ["float32"]}
    with (
        contender("embedding.encode", given, place.folder) as encode,
        contender("embedding.engine", given, place.folder) as engine,
    ):
        runner = _Runner(encode, engine, place.machine["cores"], count)
        ours = [ENGINE, *([ENGINE_FP32] if bf16 else []), *([COMPILED] if shutil.which("c++") else [])]
        how = {"dtypes": given["dtypes"], "ours": ours, "rounds": rounds}
        legs = [_leg(runner, mode, kind, **how) for mode in (ONE, ALL) for kind in KINDS]
        profile = runner.ask("profile", "mixed", ONE)
    return {"legs": legs, "profile": profile}


def _leg(runner: _Runner, mode: str, kind: str, *, dtypes: Sequence[str], ours: Sequence[str], rounds: int) -> Leg:
    finalists = _sweep(runner, mode, kind, dtypes)
    order = [UNTOUCHED, *finalists, *ours]
    rates: dict[str, list[float]] = {name: [] for name in (UNTOUCHED, TUNED, *ours)}
    shares, peaks, won = [], [], []
    runner.other_cores = 0.0
    for number in range(rounds):
        asked = runner.ask("peak", kind, mode)
        turn = number % len(order)
        found = {name: runner.rate(name, kind, mode) for name in (*order[turn:], *order[:turn])}
        # No tuning is a setting too: a sweep that was disturbed must not flatter the engine.
        won.append(max((UNTOUCHED, *finalists), key=lambda name: found[name][0]))
        found[TUNED] = found[won[-1]]
        for name, values in rates.items():
            values.append(found[name][0])
        figures = found[ENGINE][1]
        peaks.append(asked["peak"])
        shares.append(figures["flops"] / figures["seconds"] / asked["peak"])
        told = ", ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items())
        say(f"{mode}, {kind}, round {number + 1}/{rounds}, {_PER[mode]}: {told}; {shares[-1]:.0%} of the peak")
    best = " or ".join(dict.fromkeys(won))
    load_s = {name: found[name][1]["load_s"] for name in ours}
    return Leg(mode, kind, rates, best, shares, middle(peaks), asked["execution"], load_s, runner.other_cores)


def _sweep(runner: _Runner, mode: str, kind: str, dtypes: Sequence[str]) -> list[str]:
    """The settings of `encode` that are the fastest, each tried once."""
    tried = {}
    for name in (f"{dtype} {batch}" for dtype in dtypes for batch in BATCHES):
        tried[name], _ = runner.rate(name, kind, mode, max(1, round(_SWEPT * runner.count)))
    told = ", ".join(f"{name}: {rate:.1f}" for name, rate in tried.items())
    say(f"{mode}, {kind}, sweep of encode by precision and batch size, {_PER[mode]}: {told}")
    return sorted(tried, key=lambda name: -tried[name])[:_FINALISTS]


def rows(measured: Mapping[str, Any], machine: Mapping[str, Any]) -> list[Row]:
    """What the targets ask: those for machines whose bf16 pays, and those for float32, which hold everywhere."""
    legs = {(leg.mode, leg.kind): leg for leg in measured["legs"]}
    bf16 = machine["usable_bf16"]
    profile = explain(measured["profile"])
    fp32 = ENGINE_FP32 if bf16 else ENGINE

    def ratio(what: str, leg: Leg, ours: str, other: str, wanted: float, *, here: bool = True) -> Row:
        if not here:
            return Row("speed", what, None, wanted, note=_no_bf16(machine))
        note = f"{leg.ratios(ours, other)}; {leg.best}" if other == TUNED else leg.ratios(ours, other)
        row = Row("speed", what, leg.ratio(ours, other), wanted, note=note)
        missed = row.value is not None and row.value < wanted
        return Row("speed", what, row.value, wanted, note=f"{note}; {profile}") if missed else row

    one, whole = legs[ONE, "mixed"], legs[ALL, "mixed"]
    found = [ratio("engine / untouched encode, mixed, core-second", one, ENGINE, UNTOUCHED, 2.5, here=bf16)]
    for leg in (one, whole, legs[ONE, "short"], legs[ALL, "short"]):
        wanted = 1.15 if leg.kind == "mixed" else 1.3
        found.append(ratio(f"engine / best tuned encode, {leg.kind}, {_per(leg)}", leg, ENGINE, TUNED, wanted))
    found += [
        ratio("engine in float32 / untouched encode, mixed, core-second", one, fp32, UNTOUCHED, 1.4),
        ratio("engine in float32 / untouched encode, mixed, second, all cores", whole, fp32, UNTOUCHED, 1.6),
    ]
    for leg in legs.values():
        what = f"engine, compiled / engine, {leg.kind}, {_per(leg)}"
        if COMPILED in leg.rates:
            longer = leg.load_s[COMPILED] - leg.load_s[ENGINE]
            note = f"{leg.ratios(COMPILED, ENGINE)}; loading takes {longer:.0f} s more"
            found.append(Row("speed", what, leg.ratio(COMPILED, ENGINE), None, note=note))
        else:
            found.append(Row("speed", what, None, None, note="no C++ compiler"))
    for leg in (one, whole):
        share, dtype = middle(leg.shares), leg.execution["dtype"]
        what = f"share of the {dtype} matrix-product peak, mixed, {leg.mode}"
        note = f"{share * leg.peak / 1e9:,.0f} of {leg.peak / 1e9:,.0f} GFLOP/s"
        if dtype == "bfloat16":
            found.append(Row("speed", what, share, 0.65, note=note if share >= 0.65 else f"{note}; {profile}"))
        else:
            found.append(Row("speed", what, share, None, note=f"{note}; the target of 0.65 is one for bfloat16"))
    return found


def _per(leg: Leg) -> str:
    return "core-second" if leg.mode == ONE else "second, all cores"


def explain(figures: Mapping[str, Any]) -> str:
    """Where the engine's time goes."""
    parts = ", ".join(f"{name} {share:.0%}" for name, share in figures["profile"].items())
    return f"profile, one thread: {parts}; tokenizing {figures['tokenize_cpu_s'] / figures['cpu_s']:.0%} of all"


def _no_bf16(machine: Mapping[str, Any]) -> str:
    if not machine["native_bf16"]:
        return "no native bf16"
    return f"bf16 is there, but at {machine['bf16_gain']} times float32's speed"


def show(out: Console, measured: Mapping[str, Any]) -> None:
    """One table; rates of the rounds."""
    table = []
    for leg in measured["legs"]:
        for name, values in leg.rates.items():
            shown = f"{name} ({leg.best})" if name == TUNED else name
            table.append(
                {
                    "": f"{leg.kind}, {leg.mode}",
                    "contender": shown,
                    _PER[ONE] + " or second": middle(values),
                    "of untouched": leg.ratio(name, UNTOUCHED),
                    "rounds": " ".join(f"{value:.1f}" for value in values),
                }
            )
    show_table(out, "engine and encode; one thread: by processor time, all cores: by the clock", table)
    for leg in measured["legs"]:
        if leg.kind == "mixed":
            out.print(f"{leg.mode}: {leg.execution}")
    out.print(explain(measured["profile"]))
    show_disturbance(out, [leg.other_cores for leg in measured["legs"]])


def as_dict(measured: Mapping[str, Any]) -> dict[str, Any]:
    """For the line of JSON."""
    legs = [
        {
            "mode": leg.mode,
            "kind": leg.kind,
            "rates": {name: [round(value, 2) for value in values] for name, values in leg.rates.items()},
            "best_encode": leg.best,
            "share_of_peak": [round(share, 4) for share in leg.shares],
            "peak_flops_per_s": leg.peak,
            "execution": leg.execution,
            "load_s": {name: round(value, 2) for name, value in leg.load_s.items()},
            "other_cores": round(leg.other_cores, 2),
        }
        for leg in measured["legs"]
    ]
    return {"legs": legs, "profile": measured["profile"]}
