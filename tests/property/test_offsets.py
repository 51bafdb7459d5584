"""The tracker against a model that keeps every offset in a set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consumers.kafka import OffsetTracker
from pipeline.records import Position, Reached
from tests.support.counting import lines_run
from tests.support.examples import examples

NAMES = [("a", 0), ("a", 1), ("b", 0)]
P = NAMES[0]
# Holes: none, small (compaction), and so large that a byte for each offset would fill the memory.
HOLES = st.sampled_from([0, 0, 0, 1, 7, 1_023, 1_024, 1_025, 5_000, 2**40])


class TrackerMachine(RuleBasedStateMachine):
    """Take, finish (in any order, repeatedly, unknown ones too), commit, give away and get back."""

    @initialize()
    def begin(self) -> None:
        self.tracker = OffsetTracker()
        self.next: dict[tuple[str, int], int] = {}
        self.open: dict[tuple[str, int], set[int]] = {}
        self.committed: dict[tuple[str, int], int] = {}

    @rule(name=st.sampled_from(NAMES), position=st.sampled_from([0, 5, 1_000_000]))
    def assign(self, name: tuple[str, int], position: int) -> None:
        self.tracker.assigned({name: position})
        self.next[name] = self.committed[name] = position
        self.open[name] = set()

    @rule(name=st.sampled_from(NAMES), holes=st.lists(HOLES, max_size=12))
    def take(self, name: tuple[str, int], holes: list[int]) -> None:
        if name not in self.next:
            return
        taken = []
        for hole in holes:
            offset = self.next[name] + hole
            taken.append(Position(*name, offset))
            self.open[name].add(offset)
            self.next[name] = offset + 1
        self.tracker.taken(taken)

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        known = [Position(*name, offset) for name, offsets in self.open.items() for offset in sorted(offsets)]
        some = data.draw(st.lists(st.sampled_from(known), max_size=8)) if known else []
        unknown = data.draw(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 2**41)), max_size=3))
        strange = [Position(*name, offset) for name, offset in unknown]
        self.tracker.done([*strange, *some])
        for topic, partition, offset in [*strange, *some]:
            self.open.get((topic, partition), set()).discard(offset)

    @rule(answered=st.booleans())
    def commit(self, answered: bool) -> None:
        offsets = self.tracker.committable()
        if answered:
            self.tracker.committed(offsets)
            self.committed.update(offsets)

    @rule(name=st.sampled_from(NAMES))
    def give_away(self, name: tuple[str, int]) -> None:
        self.tracker.dropped([name])
        for known in (self.next, self.open, self.committed):
            known.pop(name, None)

    @invariant()
    def commits_reach_exactly_the_lowest_unfinished_offset(self) -> None:
        expected = {name: min(self.open[name], default=self.next[name]) for name in self.next}
        assert self.tracker.committable() == {
            name: offset for name, offset in expected.items() if offset > self.committed[name]
        }
        assert self.tracker.outstanding() == sum(map(len, self.open.values()))
        for name in NAMES:
            assert self.tracker.outstanding(name) == len(self.open.get(name, ()))


class RememberedMachine(RuleBasedStateMachine):
    """Offsets are acknowledged, finished and remembered in any order; commits follow only all three."""

    @initialize()
    def begin(self) -> None:
        self.tracker = OffsetTracker(remembered=True)
        self.tracker.assigned({P: 0})
        self.next = self.secured = self.committed = 0
        self.unacked: set[int] = set()
        self.open: set[int] = set()
        self.former: list[Reached] = []

    @rule(holes=st.lists(HOLES, max_size=12))
    def take(self, holes: list[int]) -> None:
        for hole in holes:
            self.tracker.taken([Position(*P, self.next + hole)])
            self.unacked.add(self.next + hole)
            self.open.add(self.next + hole)
            self.next += hole + 1

    @rule(data=st.data(), durable=st.booleans())
    def finish(self, data: st.DataObject, durable: bool) -> None:
        some = data.draw(st.lists(st.sampled_from(sorted(self.open)), max_size=8)) if self.open else []
        positions = [Position(*P, offset) for offset in some]
        if durable:
            self.tracker.done(positions)
            self.open -= set(some)
        else:
            self.tracker.acked(positions)
        self.unacked -= set(some)

    @rule()
    def remember(self) -> None:
        reached = self.tracker.reached()
        self.tracker.secured(reached)
        if P in reached:
            self.secured = reached[P].offset
            self.former.append(reached[P])

    @rule()
    def commit(self) -> None:
        offsets = self.tracker.committable()
        self.tracker.committed(offsets)
        self.committed = offsets.get(P, self.committed)

    @rule()
    def assign_again(self) -> None:
        """What was remembered before says nothing of what is read from now on."""
        self.tracker.assigned({P: self.committed})
        self.next = self.secured = self.committed
        self.unacked, self.open = set(), set()
        for reached in self.former:
            self.tracker.secured({P: reached})

    @invariant()
    def commits_reach_what_is_finished_and_remembered(self) -> None:
        lowest = min(self.open, default=self.next)
        expected = min(lowest, self.secured)
        assert self.tracker.committable() == ({P: expected} if expected > self.committed else {})
        assert self.tracker.unremembered() == (lowest > self.secured)
        reached = self.tracker.reached()
        acked = min(self.unacked, default=self.next)
        assert {name: at.offset for name, at in reached.items()} == ({P: acked} if acked > self.committed else {})


RememberedMachine.TestCase.settings = examples(0.6, stateful_step_count=30)
TestRemembered = RememberedMachine.TestCase
TrackerMachine.TestCase.settings = examples(0.6, stateful_step_count=30)
TestTracker = TrackerMachine.TestCase


@given(st.permutations(range(40)))
def test_a_commit_never_passes_an_unfinished_record_in_any_order_of_finishing(order: list[int]) -> None:
    tracker = OffsetTracker()
    tracker.assigned({("t", 0): 0})
    tracker.taken(Position("t", 0, offset) for offset in range(40))
    unfinished = set(range(40))
    for offset in order:
        tracker.done([Position("t", 0, offset)])
        unfinished.discard(offset)
        assert tracker.committable().get(("t", 0), 0) == min(unfinished, default=40)


def test_taking_backwards_or_from_elsewhere_is_an_error() -> None:
    tracker = OffsetTracker()
    tracker.assigned({("t", 0): 3})
    tracker.taken([Position("t", 0, 3)])
    with pytest.raises(ValueError, match="offset 3 was taken after 3"):
        tracker.taken([Position("t", 0, 3)])
    with pytest.raises(ValueError, match="not assigned"):
        tracker.taken([Position("t", 1, 0)])


def test_outstanding_records_cost_the_same_however_many_there_are() -> None:
    lines = {count: lines_run(lambda count=count: _finish_lowest_last(count)) for count in (20_000, 40_000)}  # type: ignore[misc]
    assert lines[40_000] <= 2.1 * lines[20_000]
    assert lines[40_000] <= 30 * 40_000


def _finish_lowest_last(count: int) -> None:
    """The worst order: nothing can be committed before the last batch."""
    tracker = OffsetTracker()
    tracker.assigned({("t", 0): 0})
    positions = [Position("t", 0, offset) for offset in range(count)]
    tracker.taken(positions)
    for first in range(count - 1_000, -1, -1_000):
        tracker.done(positions[first : first + 1_000])
        tracker.committable()
    assert tracker.committable() == {("t", 0): count}
