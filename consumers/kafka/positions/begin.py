"""Where the reading of one Kafka partition begins, decided without a broker."""

from consumers.kafka.groups.commits import Commit
from consumers.kafka.positions.remembered import (
    SKIP,
    UNASKED,
    AcceptableGap,
    Remembered,
    begin_without_commit,
    check_commit,
    truncated,
)
from consumers.kafka.topics.admin import LogRange
from pipeline.errors import OffsetsLost
from pipeline.records import KafkaPartition


def begin_at(
    partition: KafkaPartition,
    log: LogRange,
    commit: Commit | None,
    *,
    topic_id: str,
    read_before: bool,
    first: int,
    remembered: Remembered = UNASKED,
) -> int:
    """Return the offset to begin at. Raises OffsetsLost, with the size of the gap, if records before it are gone.

    Where reading can go on without them, it is an AcceptableGap.

    `first`: the meaning of `start_from` on this Kafka partition. `read_before`: whether the group has committed on any
    Kafka partition of the topic. The first start commits a position on *every* Kafka partition, so:

    1. The log ends below the position that Milvus remembers: it was truncated. Stop.
    2. No commit, a remembered position: the commits have expired, or the first start ended before its commit.
    3. No commit, and Milvus remembers a deleted topic of the same name, whose commits the broker has deleted. Stop.
    4. No commit, not read before: the first start. Begin at `first`.
    5. No commit, read before, the log begins at 0: a new Kafka partition, or a commit that expired or was deleted.
       Begin at 0; to read records again is exact.
    6. No commit, read before, the log begins later: unread records may be gone, and nobody knows how many. Stop.
    7. A commit for another topic id: the topic was deleted and recreated. Stop.
    8. A commit outside the log: records were deleted unread, or the log was truncated. Stop.
    9. A commit ahead of the position that Milvus remembers: Milvus has lost documents. Stop.
    10. A commit within the log: begin there.
    """
    name = f"{partition[0]}/{partition[1]}"
    position = remembered.position
    if position is not None and position.offset > log.end:
        raise truncated(partition, position.offset, log.end)
    if commit is None:
        if position is not None:
            return begin_without_commit(partition, log, position)
        if remembered.former is not None:
            raise _recreated(name, f"offset {remembered.former.offset} was remembered in Milvus", log)
        if not read_before:
            return first
        if log.start == 0:
            return 0
        raise AcceptableGap(
            f"{name}: no committed offset, although this group has read the topic before, and the log begins at "
            f"{log.start}: up to {log.start} records may be lost. {REMEDY}",
            log.start,
        )
    if commit.topic_id and topic_id and commit.topic_id != topic_id:
        raise _recreated(name, f"offset {commit.offset} was committed", log)
    if commit.offset < log.start:
        raise AcceptableGap(
            f"{name}: the next record to read is {commit.offset}, but the log begins at {log.start}: "
            f"{log.start - commit.offset} offsets are gone (retention or deletion). {REMEDY}",
            log.start,
        )
    if commit.offset > log.end:
        raise OffsetsLost(
            f"{name}: the next record to read is {commit.offset}, but the log ends at {log.end}: it was truncated "
            f"or recreated, {commit.offset - log.end} offsets are gone. Nothing was skipped. To go on, fill a new "
            "collection from the log as it is: set milvus.collection and kafka.group_id to new names"
        )
    check_commit(partition, commit.offset, remembered)
    return commit.offset


def _recreated(name: str, since: str, log: LogRange) -> AcceptableGap:
    return AcceptableGap(
        f"{name}: the topic was deleted and recreated since {since}, or this is another Kafka; "
        f"what was unread is gone, and the new log holds offsets {log.start} to {log.end}. {REMEDY}",
        log.start,
    )


REMEDY = (
    "Nothing was skipped. To go on elsewhere, set the group's offsets on purpose (kafka-consumer-groups.sh "
    f"--reset-offsets, worker stopped), or bring the records back. {SKIP}"
)
