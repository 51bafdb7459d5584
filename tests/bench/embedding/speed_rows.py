"""The speed part's targets, table and line of JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from tests.bench.embedding.rows import Row
from tests.bench.embedding.speed import ALL, ENGINE, ENGINE_FP32, INT8, LOOP, ONE, PER, TUNED, UNTOUCHED, Leg
from tests.bench.embedding.texts import KINDS, LEAST_PACKAGES, PACKAGES_FILE
from tests.bench.report import middle, show_disturbance, show_table

_OF_UNTOUCHED = 2.5
_OF_TUNED: Mapping[str, Mapping[bool, Mapping[str, float]]] = {
    ONE: {bf16: {"mixed": 1.15, "short": 1.3, "packages": 1.15} for bf16 in (False, True)},
    ALL: {
        True: {"mixed": 2.0, "short": 1.65, "packages": 1.65},
        False: {"mixed": 1.15, "short": 1.3, "packages": 1.15},
    },
}
"""By mode, whether bf16 pays, and kind of text."""
_OF_LOOP, _OF_BF16, _OF_PEAK = 1.05, 1.5, 0.65
_FP32_OF_UNTOUCHED = {ONE: 1.4, ALL: 1.6}
_PER = {ONE: "core-second", ALL: "second, all cores"}
_NAMES = {
    ENGINE: "engine",
    ENGINE_FP32: "engine in float32",
    INT8: "engine in int8",
    UNTOUCHED: "untouched encode",
    TUNED: "best tuned encode",
    LOOP: "best plain OpenVINO loop",
}
_ABSENT = {
    LOOP: "OpenVINO does not run this model",
    INT8: "the extra int8 is not installed, or OpenVINO does not run this model",
}
"""Why a contender is missing."""


def rows(legs: Sequence[Leg], machine: Mapping[str, Any]) -> list[Row]:
    """The figures with their targets: those for machines whose bf16 pays, and those for float32, which hold everywhere.

    A kind of text that this machine does not have is in `legs` neither with one thread nor with all cores.
    """
    by_mode_and_kind = {(leg.mode, leg.kind): leg for leg in legs}
    bf16 = machine["usable_bf16"]
    found = []
    for mode in (ONE, ALL):
        for kind in KINDS:
            if (leg := by_mode_and_kind.get((mode, kind))) is None:
                what = f"engine / best tuned encode, {kind}, {_PER[mode]}"
                note = f"{PACKAGES_FILE} has fewer than {LEAST_PACKAGES} descriptions"
                found.append(Row("speed", what, None, _OF_TUNED[mode][bf16][kind], note=note))
                continue
            found.append(_ratio(leg, ENGINE, TUNED, _OF_TUNED[mode][bf16][kind]))
            found.append(_ratio(leg, ENGINE, LOOP, _OF_LOOP))
            if mode == ALL:
                found.append(_ratio(leg, INT8, ENGINE, _OF_BF16 if bf16 else None))
    one, whole = by_mode_and_kind[ONE, "mixed"], by_mode_and_kind[ALL, "mixed"]
    if bf16:
        found.append(_ratio(one, ENGINE, UNTOUCHED, _OF_UNTOUCHED))
    else:
        what = f"engine / untouched encode, mixed, {_PER[ONE]}"
        found.append(Row("speed", what, None, _OF_UNTOUCHED, note=_no_bf16(machine)))
    for leg in (one, whole):
        fp32 = ENGINE_FP32 if ENGINE_FP32 in leg.rates else ENGINE
        found.append(_ratio(leg, fp32, UNTOUCHED, _FP32_OF_UNTOUCHED[leg.mode], name=_NAMES[ENGINE_FP32]))
    return [*found, *(_share(leg) for leg in (one, whole))]


def _ratio(leg: Leg, ours: str, other: str, wanted: float | None, *, name: str = "") -> Row:
    """One contender's rate as a multiple of another's; `name` replaces that of `ours`."""
    what = f"{name or _NAMES[ours]} / {_NAMES[other]}, {leg.kind}, {_PER[leg.mode]}"
    missing = {ours, other} - leg.rates.keys()
    if missing:
        return Row("speed", what, None, wanted, note=_ABSENT[missing.pop()])
    value, note = leg.ratio(ours, other), leg.ratios(ours, other)
    if other in leg.best:
        note += f"; {leg.best[other]}"
    if wanted is not None and value < wanted:
        note += f"; {explain(leg)}"
    return Row("speed", what, value, wanted, note=note)


def _share(leg: Leg) -> Row:
    share, dtype = middle(leg.shares), leg.execution["dtype"]
    what = f"share of the {dtype} matrix-product peak, mixed, {leg.mode}"
    note = f"{share * leg.peak / 1e9:,.0f} of {leg.peak / 1e9:,.0f} GFLOP/s"
    if dtype != "bfloat16":
        return Row("speed", what, share, None, note=f"{note}; the target of {_OF_PEAK} is one for bfloat16")
    return Row("speed", what, share, _OF_PEAK, note=note if share >= _OF_PEAK else f"{note}; {explain(leg)}")


def explain(leg: Leg) -> str:
    """Where the engine's time goes."""
    return (
        f"tokenizing {leg.tokenizing:.0%} of the processor time, padding {leg.padding:.0%} of the texts' tokens, "
        f"{middle(leg.shares):.0%} of the peak"
    )


def _no_bf16(machine: Mapping[str, Any]) -> str:
    if not machine["native_bf16"]:
        return "no native bf16"
    return f"bf16 is there, but at {machine['bf16_gain']} times float32's speed"


def show(out: Console, legs: Sequence[Leg]) -> None:
    """One table; rates of the rounds."""
    table = []
    for leg in legs:
        for name, values in leg.rates.items():
            table.append(
                {
                    "": f"{leg.kind}, {leg.mode}",
                    "contender": f"{name} ({leg.best[name]})" if name in leg.best else name,
                    PER[ONE] + " or second": middle(values),
                    "of untouched": leg.ratio(name, UNTOUCHED),
                    "rounds": " ".join(f"{value:.1f}" for value in values),
                }
            )
    title = "engine, encode and a plain OpenVINO loop; one thread: by processor time, all cores: by the clock"
    show_table(out, title, table)
    for leg in legs:
        out.print(f"{leg.kind}, {leg.mode}: {explain(leg)}; {leg.execution}")
    show_disturbance(out, [leg.other_cores for leg in legs])


def as_dict(legs: Sequence[Leg]) -> list[dict[str, Any]]:
    """For the line of JSON."""
    return [
        {
            "mode": leg.mode,
            "kind": leg.kind,
            "rates": {name: [round(value, 2) for value in values] for name, values in leg.rates.items()},
            "best": dict(leg.best),
            "share_of_peak": [round(share, 4) for share in leg.shares],
            "peak_flops_per_s": leg.peak,
            "execution": leg.execution,
            "tokenizing_share": leg.tokenizing,
            "padding_share": leg.padding,
            "other_cores": round(leg.other_cores, 2),
        }
        for leg in legs
    ]
