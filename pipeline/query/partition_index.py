"""The Milvus partitions of a listing by their intervals: read out of their names once, then found by search. Pure."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.query.request.request import TimeRange
from pipeline.store import interval


@dataclass(frozen=True, slots=True)
class _Grain:
    """The partitions of one granularity, whose intervals do not overlap, by time."""

    starts: Sequence[int]
    ends: Sequence[int]
    names: Sequence[str]

    def holding(self, time_ms: int) -> Sequence[str]:
        at = bisect_right(self.starts, time_ms) - 1
        return self.names[at : at + 1] if at >= 0 and time_ms < self.ends[at] else ()

    def outside(self, time: TimeRange) -> Iterable[str]:
        first = 0 if time.from_ms is None else bisect_right(self.ends, time.from_ms)
        last = len(self.names) if time.to_ms is None else bisect_left(self.starts, time.to_ms)
        return (*self.names[:first], *self.names[max(first, last) :])


class PartitionIndex:
    """Names of Milvus partitions, sorted, and what their intervals say. One whose name gives none may hold any time."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = tuple(sorted(names))
        grains: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        self._anytime: list[str] = []
        for name in self.names:
            span = interval(name)
            if span is None:
                self._anytime.append(name)
            else:
                grains[name[0]].append((*span, name))
        self._grains = [_Grain(*zip(*sorted(spans), strict=True)) for spans in grains.values()]

    def holding(self, time_ms: int) -> list[str]:
        """The partitions that may hold a row of this event time."""
        return [*self._anytime, *(name for grain in self._grains for name in grain.holding(time_ms))]

    def outside(self, time: TimeRange) -> list[str]:
        """The partitions that hold no row of the time range."""
        return sorted(name for grain in self._grains for name in grain.outside(time))
