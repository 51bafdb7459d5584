"""The range of a replay, and the collection into which it was begun."""

import pytest

from consumers.replay.range import ReplayRange, ReplaySpan
from pipeline.errors import Mismatch


def span(position: int, collection_id: str) -> ReplaySpan:
    return ReplaySpan("group.replay.1", {("t", 0): ReplayRange(0, 5, 20, position)}, {"t": "id"}, collection_id)


@pytest.mark.parametrize(("position", "begun_into"), [(5, "old"), (9, "new"), (9, "")])
def test_a_replay_goes_on_in_its_own_collection(position: int, begun_into: str) -> None:
    assert span(position, begun_into).into("news", "new").collection_id == "new"


def test_a_replay_does_not_go_on_in_a_collection_that_was_made_again() -> None:
    with pytest.raises(Mismatch, match=r"another collection 'news'.*--delete --group group\.replay\.1") as caught:
        span(9, "old").into("news", "new")
    assert caught.value.exit_code == 4
