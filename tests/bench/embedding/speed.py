"""How fast: the engine against `encode`, against a plain OpenVINO loop, and against the matrix-product peak."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from tests.bench.children import Contender, contender
from tests.bench.embedding.place import Place
from tests.bench.report import busy_s, middle, say

BATCHES = (4, 8, 16, 32, 64)
LOOP_BATCHES = (8, 16, 32)
UNTOUCHED, TUNED, LOOP = "encode, untouched", "encode, best tuned", "plain OpenVINO loop"
ENGINE, ENGINE_FP32, INT8 = "engine", "engine, float32", "engine, int8"
_DTYPES: Mapping[str, str] = {ENGINE: "auto", ENGINE_FP32: "float32", INT8: "int8"}
ONE, ALL = "one thread", "all cores"
PER = {ONE: "documents per core-second", ALL: "documents per second"}
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
    best: Mapping[str, str]
    """The settings of the best tuned `encode`, and of the best plain loop."""
    shares: list[float]
    """The engine's operations as a share of the peak of the same round."""
    peak: float
    execution: Mapping[str, Any]
    tokenizing: float
    """Share of tokenizing in the engine's processor time."""
    padding: float
    """Tokens that the engine computes for padding, as a share of the texts' own."""
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
    """The contenders' processes, and how many cores other programs kept busy."""

    encode: Contender
    engine: Contender
    loop: Contender | None
    """None where OpenVINO does not run the model."""
    cores: int
    count: int
    other_cores: float = field(default=0.0)

    def rate(self, name: str, kind: str, mode: str, count: int | None = None) -> tuple[float, dict[str, Any]]:
        """Let a contender embed the texts: documents per core-second or second, and its figures."""
        job = {"kind": kind, "count": count or self.count, "threads": self._threads(mode)}
        settings, _, batch = name.rpartition(" ")
        if name in _DTYPES:
            process, job = self.engine, {**job, "dtype": _DTYPES[name], "do": "embed"}
        elif name == UNTOUCHED:
            process, job = self.encode, {**job, "dtype": "untouched", "batch": None}
        elif settings == LOOP:
            assert self.loop is not None
            process, job = self.loop, {**job, "batch": int(batch)}
        else:
            process, job = self.encode, {**job, "dtype": settings, "batch": int(batch)}
        process.prepare(job)
        before = busy_s()
        figures = process.go()
        others = (busy_s() - before - figures["cpu_s"]) / figures["seconds"]
        self.other_cores = max(self.other_cores, others)
        return figures["documents"] / figures["cpu_s" if mode == ONE else "seconds"], figures

    def peak(self, kind: str, mode: str) -> dict[str, Any]:
        """The matrix-product peak in the engine's precision with its threads, and how the engine runs."""
        job = {"kind": kind, "count": self.count, "threads": self._threads(mode)}
        self.engine.prepare({**job, "dtype": _DTYPES[ENGINE], "do": "peak"})
        return self.engine.go()

    def _threads(self, mode: str) -> int:
        return 1 if mode == ONE else self.cores


def measure(place: Place, rounds: int, count: int) -> list[Leg]:
    """Sweep `encode` once, then let all contenders embed the same texts once a round, in turns."""
    dtypes = ["float32", "bfloat16"] if place.machine["usable_bf16"] else ["float32"]
    given = {**place.arguments(), "dtypes": dtypes}
    with ExitStack() as stack:

        def started(name: str) -> Contender:
            return stack.enter_context(contender(f"embedding.{name}", given, place.folder))

        loop = started("openvino_loop") if place.prepared else None
        runner = _Runner(started("encode"), started("engine"), loop, place.machine["cores"], count)
        ours = [
            ENGINE,
            *([ENGINE_FP32] if place.machine["native_bf16"] else []),
            *([INT8] if place.prepared and find_spec("nncf") else []),
        ]
        return [
            _leg(runner, mode, kind, dtypes=dtypes, ours=ours, rounds=rounds)
            for mode in (ONE, ALL)
            for kind in place.kinds
        ]


def _leg(runner: _Runner, mode: str, kind: str, *, dtypes: Sequence[str], ours: Sequence[str], rounds: int) -> Leg:
    finalists = _sweep(runner, mode, kind, dtypes)
    # No tuning is a setting too: a sweep that was disturbed must not flatter the engine.
    chosen = {TUNED: [UNTOUCHED, *finalists]}
    if runner.loop is not None:
        chosen[LOOP] = [f"{LOOP} {batch}" for batch in LOOP_BATCHES]
    order = [*chosen[TUNED], *chosen.get(LOOP, []), *ours]
    rates: dict[str, list[float]] = {name: [] for name in (UNTOUCHED, *chosen, *ours)}
    won: dict[str, list[str]] = {name: [] for name in chosen}
    shares, peaks, tokenizing, padding = [], [], [], []
    runner.other_cores = 0.0
    for number in range(rounds):
        peak = runner.peak(kind, mode)
        turn = number % len(order)
        found = {name: runner.rate(name, kind, mode) for name in (*order[turn:], *order[:turn])}
        for name, settings in chosen.items():
            won[name].append(max(settings, key=lambda setting: found[setting][0]))
            found[name] = found[won[name][-1]]
        for name, values in rates.items():
            values.append(found[name][0])
        figures = found[ENGINE][1]
        peaks.append(peak["peak"])
        shares.append(figures["flops"] / figures["seconds"] / peak["peak"])
        tokenizing.append(figures["tokenize_cpu_s"] / figures["cpu_s"])
        padding.append(figures["padding"] / figures["tokens"])
        listed = ", ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items())
        say(f"{mode}, {kind}, round {number + 1}/{rounds}, {PER[mode]}: {listed}; {shares[-1]:.0%} of the peak")
    return Leg(
        mode,
        kind,
        rates,
        {name: " or ".join(dict.fromkeys(settings)).replace(LOOP, "batch") for name, settings in won.items()},
        shares,
        middle(peaks),
        peak["execution"],
        middle(tokenizing),
        middle(padding),
        runner.other_cores,
    )


def _sweep(runner: _Runner, mode: str, kind: str, dtypes: Sequence[str]) -> list[str]:
    """The settings of `encode` that are the fastest, each tried once."""
    tried = {}
    for name in (f"{dtype} {batch}" for dtype in dtypes for batch in BATCHES):
        tried[name], _ = runner.rate(name, kind, mode, max(1, round(_SWEPT * runner.count)))
    listed = ", ".join(f"{name}: {rate:.1f}" for name, rate in tried.items())
    say(f"{mode}, {kind}, sweep of encode by precision and batch size, {PER[mode]}: {listed}")
    return sorted(tried, key=lambda name: -tried[name])[:_FINALISTS]
