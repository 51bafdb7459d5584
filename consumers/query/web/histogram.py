"""The rows of a collection over its Milvus partitions as the bars of a drawing. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.query import PartitionState
from pipeline.timestamps import format_time

WIDTH, HEIGHT = 600, 96
"""Of the drawing, in its own units."""
_MOST_BARS = 60
_LEAST = 2.0
"""Height of a bar that has any rows, or may have."""
_GAP = 0.2
"""Of a bar's width."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bar:
    """One Milvus partition, or neighbours where there are too many."""

    x: float
    y: float
    width: float
    height: float
    state: str
    """`hot`: loaded, and searched where there is a search; `cold`: not loaded; `skipped`: outside the time range."""
    label: str
    """For people: which partitions, how many rows, what was done with them."""
    from_: str
    to: str
    """The interval as a time range has it, RFC 3339; empty: it is open, or may hold any time."""


STATES = {"hot": "searched", "cold": "not loaded", "skipped": "outside the time range"}


def bars(states: Sequence[PartitionState], skipped: Mapping[str, str], searched: bool) -> list[Bar]:
    """The bars of all partitions, the earliest first.

    `skipped`: reason by name, of a search. `searched`: there was one, so the others were searched.
    """
    if not states:
        return []
    groups = _grouped(states)
    rows = [sum(state.rows or 0 for state in group) for group in groups]
    most = max(rows) or 1
    step = WIDTH / len(groups)
    drawn = []
    for index, (group, count) in enumerate(zip(groups, rows, strict=True)):
        height = max(_LEAST, count / most * HEIGHT)
        names = {_state(state, skipped) for state in group}
        state = next(iter(names)) if len(names) == 1 else ("hot" if "hot" in names else "cold")
        drawn.append(
            Bar(
                x=round(index * step + step * _GAP / 2, 2),
                y=round(HEIGHT - height, 2),
                width=round(step * (1 - _GAP), 2),
                height=round(height, 2),
                state=state,
                label=_label(group, count, _described(names, searched)),
                from_=_time(group[0].from_ms),
                to=_time(group[-1].to_ms),
            )
        )
    return drawn


def _grouped(states: Sequence[PartitionState]) -> list[Sequence[PartitionState]]:
    """One partition a group, or so many neighbours that there are at most 60 groups."""
    size = -(-len(states) // _MOST_BARS)
    return [states[at : at + size] for at in range(0, len(states), size)]


def _state(state: PartitionState, skipped: Mapping[str, str]) -> str:
    if not state.loaded:
        return "cold"
    return "skipped" if skipped.get(state.name) == "outside_time_range" else "hot"


def _described(names: Collection[str], searched: bool) -> str:
    if len(names) > 1:
        return ""
    name = next(iter(names))
    return STATES[name] if searched or name != "hot" else "loaded"


def _label(group: Sequence[PartitionState], rows: int, what: str) -> str:
    name = group[0].name if len(group) == 1 else f"{group[0].name} to {group[-1].name}"
    known = all(state.rows is not None for state in group)
    count = f"{rows:,} row{'' if rows == 1 else 's'}"
    if not known:
        count = f"{count} or more" if rows else "rows not counted"
    return f"{name}: {count}" + (f", {what}" if what else "")


def _time(epoch_ms: int | None) -> str:
    """RFC 3339 where four digits can write the year."""
    if epoch_ms is None:
        return ""
    try:
        _EPOCH + timedelta(milliseconds=epoch_ms)
    except OverflowError:
        return ""
    return format_time(epoch_ms)
