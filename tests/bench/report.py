"""Figures for people: tables and targets."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

DISTURBED_CORES = 0.3


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and what it is to reach."""

    name: str
    value: float
    wanted: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the figure is at least (or at most) what is wanted."""
        return self.value <= self.wanted if self.at_most else self.value >= self.wanted

    def as_dict(self) -> dict[str, Any]:
        """For the line of JSON."""
        return {**asdict(self), "reached": self.reached}


def say(text: str) -> None:
    """Tell on standard error what is going on."""
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def busy_s() -> float:
    """Processor seconds that this machine has spent at anything, or was not given by its host."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def middle(values: Sequence[float]) -> float:
    """The median, to four digits."""
    return float(f"{median(values):.4g}")


def number(value: float | str) -> str:
    """Thousands in full, smaller figures to three digits."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def show_machine(out: Console, machine: Mapping[str, Any]) -> None:
    """On what the figures below were measured."""
    out.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['cpu_capability']}, {'native bf16' if machine['native_bf16'] else 'no native bf16'} "
        f"({machine['bf16_gain']} times float32), GPU: {machine['gpu'] or 'none'}; "
        f"load before the run {machine['load_before']}"
    )
    packages = ", ".join(f"{name} {numbered}" for name, numbered in machine["packages"].items())
    servers = f"Kafka protocol {machine['kafka']}, Milvus {machine['milvus']}, " if "milvus" in machine else ""
    out.print(f"{machine['system']}, Python {machine['python']}, {servers}{packages}")


def show_table(out: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same columns; numbers on the right."""
    table = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(number(value) for value in row.values()))
    out.print(table)


def show_disturbance(out: Console, other_cores: Sequence[float]) -> None:
    """Say so where other programs took processors: forwards of many threads suffer most, which flatters a ratio."""
    most = max(other_cores)
    verdict = "" if most < DISTURBED_CORES else "; DISTURBED: measure again on a machine that does nothing else"
    out.print(f"other programs kept up to {most:.1f} cores busy{verdict}\n")


def show_targets(out: Console, targets: Sequence[Target]) -> None:
    """Each target, reached or not."""
    for target in targets:
        sign = "<=" if target.at_most else ">="
        verdict = "reached" if target.reached else "NOT REACHED"
        out.print(f"{verdict:12} {target.name}: {number(target.value)} (target {sign} {number(target.wanted)})")
