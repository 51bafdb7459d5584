"""The schedule of faults: every kind comes, also while Milvus is away, and none has to wait for another."""

from collections import Counter
from typing import get_args

import pytest

from tests.chaos.profile import NAMES, profile_of
from tests.chaos.schedule import MILVUS, Event, Kind, plan

SEEDS = range(60)


def plans(minutes: float, *, disks: bool = True) -> list[list[Event]]:
    return [plan(seed, minutes * 60, 5, 10.0, disks=disks) for seed in SEEDS]


def test_every_kind_of_fault_is_planned() -> None:
    assert {event.kind for events in plans(10) for event in events} == set(get_args(Kind))


def test_other_faults_strike_while_milvus_is_away() -> None:
    beside: Counter[Kind] = Counter()
    for events in plans(10):
        away = [(each.at_s, each.at_s + each.seconds) for each in events if each.kind in MILVUS and each.seconds > 60]
        assert len(away) == 2
        assert away[0][1] < away[1][0]
        beside.update(each.kind for each in events if any(begin < each.at_s < end for begin, end in away))
    assert {"kill worker", "link down in a rebalance", "add worker", "remove worker", "freeze worker"} <= beside.keys()
    assert beside.total() > 20 * len(SEEDS)


@pytest.mark.parametrize("minutes", [1, 1.5, 4, 8, 20])
def test_a_plan_is_that_of_its_seed_and_ends_before_the_run(minutes: float) -> None:
    assert plans(minutes) == plans(minutes)
    for events in plans(minutes):
        assert [each.at_s for each in events] == sorted(each.at_s for each in events)
        assert sum(each.kind == "kill everything" for each in events) == 1
        assert events[-1].at_s < minutes * 60


def test_disks_are_full_only_where_they_can_be() -> None:
    kinds = {event.kind for events in plans(10, disks=False) for event in events}
    assert "disk full: kafka" not in kinds


def test_the_profiles_follow_one_another() -> None:
    assert {profile_of(seed).name for seed in range(3)} == set(NAMES)
    for seed in range(3):
        upserts, appends = profile_of(seed).groups
        assert (upserts.contract.append, appends.contract.append) == (False, True)
        assert {*upserts.topics, *appends.topics} == {topic.name for topic in profile_of(seed).topics}
