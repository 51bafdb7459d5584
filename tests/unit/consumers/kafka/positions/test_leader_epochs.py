"""The leader epochs that are committed with the offsets."""

from typing import Any

from kafka import TopicPartition

from consumers.kafka.positions.leader_epochs import LeaderEpochs

P = ("t", 0)


def polled(*records: tuple[int, int]) -> dict[TopicPartition, list[Any]]:
    """Records by offset and epoch."""
    return {TopicPartition(*P): [("t", 0, epoch, offset) for offset, epoch in records]}


def test_an_offset_has_the_epoch_of_the_record_before_it() -> None:
    epochs = LeaderEpochs()
    epochs.begin(P, 5, 3)
    assert epochs.before(P, 5) == 3
    epochs.observe(polled((5, 3), (6, 3)))
    epochs.observe(polled((7, 3), (8, 4), (9, 4), (12, 7)))
    epochs.observe(polled((13, 7), (14, 7)))
    assert [epochs.before(P, offset) for offset in (6, 8, 9, 10, 12, 13, 15)] == [3, 3, 4, 4, 4, 7, 7]


def test_what_was_never_read_has_none() -> None:
    epochs = LeaderEpochs()
    assert epochs.before(P, 5) == -1
    epochs.observe(polled((5, 2)))
    assert epochs.before(P, 5) == -1
    assert epochs.before(P, 6) == 2
    epochs.begin(P, 3, -1)
    assert epochs.before(P, 3) == -1
    epochs.observe(polled((3, 2)))
    assert epochs.before(P, 4) == 2
