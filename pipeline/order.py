"""The order of the records of a document: which of two is newer, and what remains known after both. Pure.

The one rule for fold, guard, redo, replay, dead-letter retry and audit. A log is a Kafka partition of a topic id.

1. One log, a record without version involved: the higher offset is newer. Such a record ends an epoch: versions from
   before it and from after it are never compared.
2. One log, both with a version of one epoch: the higher version is newer, among equal ones the higher offset.
3. Two logs: a record is older than one without version whose Kafka timestamp is later. Otherwise the higher version is
   newer, then the later timestamp, then the later arrival. A record without version counts with the highest version
   that it has replaced (its floor), so that it cannot matter in which order the logs are read.

Why this is convergent, and where it is not, is in docs/guarantees.md.
"""

from typing import NamedTuple

from pipeline.records import Delete, Position, Put, Rank


class Comparison(NamedTuple):
    """The outcome for a stored record and another record of the same document."""

    order: int
    """-1: the record is older than the stored one, 0: it is the same, 1: it is newer."""
    rank: Rank
    """Of the newer one, with what is known of both. It may differ from the stored rank though the record is older."""
    by_arrival: bool = False
    """Only the arrival makes the record newer: neither versions, offsets nor timestamps differ."""


def rank_of(operation: Put | Delete) -> Rank:
    """The rank of an operation, with what is known of the records folded into it."""
    return operation.rank or own_rank(operation.position, operation.topic_id, operation.timestamp_ms, operation.version)


def own_rank(position: Position, topic_id: str, time_ms: int, version: int | None) -> Rank:
    """The rank of a record alone."""
    if version is None:
        return Rank(position, topic_id, time_ms, None, position.offset, time_ms)
    return Rank(position, topic_id, time_ms, version)


def same_log(one: Rank, other: Rank) -> bool:
    """Whether offsets can be compared. An unknown topic id is taken for the same."""
    if one.position[:2] != other.position[:2]:
        return False
    return one.topic_id == other.topic_id or not one.topic_id or not other.topic_id


def compare(stored: Rank, record: Rank) -> Comparison:
    """Compare a record with the stored one, which was read before."""
    of_one_log = same_log(stored, record)
    order, by_arrival = (_in_log(stored, record), False) if of_one_log else _across_logs(stored, record)
    if order > 0:
        return Comparison(1, _replaced(stored, record, of_one_log=of_one_log), by_arrival)
    if order < 0 and not of_one_log and _ended(record, stored):
        return Comparison(-1, stored._replace(floor=_highest(stored.floor, record.highest_version)))
    return Comparison(order, stored)


def _in_log(stored: Rank, record: Rank) -> int:
    offset, stored_offset = record.position.offset, stored.position.offset
    if stored.version is not None and record.version is not None:
        if offset < stored.reset_offset:
            return -1
        if record.reset_offset <= stored_offset and record.version != stored.version:
            return 1 if record.version > stored.version else -1
    return (offset > stored_offset) - (offset < stored_offset)


def _across_logs(stored: Rank, record: Rank) -> tuple[int, bool]:
    timed = stored.time_ms >= 0 and record.time_ms >= 0
    if timed and _ended(record, stored):
        return -1, False
    if timed and _ended(stored, record):
        return 1, False
    if not timed and (stored.version is None) != (record.version is None):
        return 1, True
    versions = _versions_across_logs(stored, record)
    if versions:
        return versions, False
    if timed and record.time_ms != stored.time_ms:
        return (1 if record.time_ms > stored.time_ms else -1), False
    return 1, True


def _ended(one: Rank, other: Rank) -> bool:
    """Whether a record without version in another log, which `other` knows or is, ends `one`.

    It ends what is older by timestamp, and what has a lower version than a record older by timestamp. The latter is so
    for a record below its own floor, which one in its own log had left alone.
    """
    below_floor = one.version is not None and one.floor is not None and one.version < one.floor
    return one.time_ms < other.reset_ms or (below_floor and one.reset_ms < other.reset_ms)


def _versions_across_logs(stored: Rank, record: Rank) -> int:
    """The order by versions and floors; 0: equal. A version is higher than a floor of the same number."""
    ours, theirs = record.highest_version, stored.highest_version
    if ours is None or theirs is None:
        return (ours is not None) - (theirs is not None)
    if ours != theirs:
        return 1 if ours > theirs else -1
    return (record.version == ours) - (stored.version == theirs)


def _replaced(stored: Rank, record: Rank, *, of_one_log: bool) -> Rank:
    floor = _highest(stored.floor, record.floor)
    if record.reset_ms >= 0 or record.reset_offset >= 0:
        floor = _highest(floor, stored.highest_version)
    time_ms, reset_offset = record.time_ms, record.reset_offset
    if of_one_log:
        reset_offset = max(reset_offset, stored.reset_offset)
        if record.version == stored.version:
            # Timestamps of a log may go back. Without this, a record of another log could be older than the first of
            # two records and newer than the second.
            time_ms = max(time_ms, stored.time_ms)
    reset_ms = max(record.reset_ms, stored.reset_ms)
    return Rank(record.position, record.topic_id, time_ms, record.version, reset_offset, reset_ms, floor)


def _highest(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)
