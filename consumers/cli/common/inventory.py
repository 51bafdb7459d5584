"""What is in Kafka and Milvus, read for the commands that show it: topics, offsets, collections, rows."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from consumers.cli.common.output import utc
from consumers.config import Settings
from consumers.kafka import KafkaSettings, MissingTopic, PartitionLag, read_range, topic_facts
from consumers.wiring.connections import kafka_settings
from pipeline.errors import MilvusStreamError, NotFound, NotLoaded, UsageError
from pipeline.records import KafkaPartition
from pipeline.store import (
    DEFAULT_PARTITION,
    CollectionInfo,
    CollectionStamp,
    MilvusServerApi,
    check_collection_name,
    described_stamp,
    in_order,
    interval,
    ledger_name,
    marks_name,
    mode_by_data,
    read_ledger_of,
    read_marks_of,
    read_stamp,
)

_COUNTS_AT_A_TIME = 8
"""A strong count waits 0.2 s for the server's time tick; waiting together costs nothing."""
_ANSWER_MS = 10_000
"""A command gives a broker less time to answer than a worker does: somebody waits for it."""
_PROBED_OFFSETS = 20
"""Offsets read for the first unread record: compaction and transactions leave holes."""
_SIMILAR_NAMES = 3


@dataclass(frozen=True, slots=True)
class PartitionRows:
    """One Milvus partition."""

    name: str
    rows: int | None
    """None: it is not loaded, so it cannot be counted and searches do not see it."""

    def as_dict(self) -> dict[str, Any]:
        """`name`, `from`, `to` (RFC 3339; null: any time), `rows`, `loaded`."""
        held = interval(self.name)
        begin, end = (utc(moment) for moment in held) if held else (None, None)
        return {"name": self.name, "from": begin, "to": end, "rows": self.rows, "loaded": self.rows is not None}


@dataclass(frozen=True, slots=True)
class OwnCollection:
    """A collection made by milvus-stream, with its ledger and its marks. At least one of the three is there."""

    name: str
    info: CollectionInfo | None
    """None: only ledger or marks are left of it."""
    ledger: str | None
    marks: str | None
    stamp: CollectionStamp | None = None
    """Without the groups that fill it; None: there is no collection, or not one made by milvus-stream."""

    @property
    def model(self) -> Mapping[str, Any] | None:
        """The model its vectors are of."""
        return None if self.stamp is None else self.stamp.model


def own_collections(api: MilvusServerApi) -> list[OwnCollection]:
    """The collections with our stamp, by name, also those of which only ledger or marks are left."""
    stamped: dict[str, CollectionInfo] = {}
    ledgers: dict[str, str] = {}
    marks: dict[str, CollectionInfo] = {}
    for name in api.collections():
        info = api.describe(name)
        if info is None:
            continue
        if (owner := read_ledger_of(info)) is not None:
            ledgers[owner] = name
        elif (owner := read_marks_of(info)) is not None:
            marks[owner] = info
        elif read_stamp(info) is not None:
            stamped[name] = info
    names = sorted({*stamped, *ledgers, *marks})
    return [_own(name, stamped.get(name), ledgers.get(name), marks.get(name)) for name in names]


def _own(name: str, info: CollectionInfo | None, ledger: str | None, marks: CollectionInfo | None) -> OwnCollection:
    stamp = None if info is None else described_stamp(info, marks)
    return OwnCollection(name, info, ledger, None if marks is None else marks.name, stamp)


def filled_mode(api: MilvusServerApi, own: OwnCollection) -> str | None:
    """The mode in which a collection is filled, by its stamp, else by what is in it; None: not known."""
    if own.stamp is None:
        return None
    return own.stamp.mode or mode_by_data(api, own.name)


def partition_rows(api: MilvusServerApi, collection: str) -> list[PartitionRows]:
    """Rows of each Milvus partition, the earliest first; `_default` only where it holds any or is the only one."""
    names = in_order(api.partitions(collection))
    loaded = set(api.loaded_partitions(collection))

    def count(name: str) -> PartitionRows:
        try:
            return PartitionRows(name, api.count(collection, partitions=[name]))
        except NotLoaded:
            return PartitionRows(name, None)

    # First, because after a successful read "not loaded" is taken for a server that recovers, and waited for.
    default = count(DEFAULT_PARTITION)
    with ThreadPoolExecutor(_COUNTS_AT_A_TIME) as pool:
        counted = list(pool.map(lambda name: count(name) if name in loaded else PartitionRows(name, None), names))
    return [*counted, default] if default.rows or not counted else counted


def count_rows(api: MilvusServerApi, name: str) -> int | None:
    """The rows of a collection; None where it is not loaded."""
    try:
        return api.count(name)
    except NotLoaded:
        return None


def live_documents(api: MilvusServerApi, collection: str) -> int | None:
    """Documents by the ledger, deleted ones not counted; None where there is no ledger or it is not loaded."""
    ledger = ledger_name(collection)
    if api.describe(ledger) is None:
        return None
    try:
        return int(api.query(ledger, 'state == "live"', ["count(*)"], strong=True)[0]["count(*)"])
    except NotLoaded:
        return None


def find_collection(api: MilvusServerApi, name: str) -> OwnCollection:
    """A collection of any maker, with its ledger and marks if there are any.

    Raises NotFound with similar names of ours, UsageError for an alias, a ledger or marks.
    """
    check_collection_name(name)
    described = api.describe(name)
    if described is not None and described.name != name:
        raise UsageError(f"{name!r} is an alias: name the collection {described.name!r} itself")
    for what, read_owner in (("is the ledger", read_ledger_of), ("holds the marks", read_marks_of)):
        owner = None if described is None else read_owner(described)
        if owner is not None:
            raise UsageError(f"{name!r} {what} of {owner!r}: name that collection, they go with it")
    ledger_info = _companion(api, name, ledger_name(name), read_ledger_of)
    ledger = None if ledger_info is None else ledger_info.name
    marks = _companion(api, name, marks_name(name), read_marks_of)
    if described is None and ledger is None and marks is None:
        near = difflib.get_close_matches(name, [own.name for own in own_collections(api)], n=_SIMILAR_NAMES)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `milvus-stream collections list`"
        raise NotFound(f"there is no collection {name!r}; {hint}")
    return _own(name, described, ledger, marks)


def _companion(
    api: MilvusServerApi, owner: str, name: str, read_owner: Callable[[CollectionInfo], str | None]
) -> CollectionInfo | None:
    """The collection `name`, if it is there and says that it belongs to `owner`."""
    info = api.describe(name)
    return info if info is not None and read_owner(info) == owner else None


def quick_kafka(settings: Settings) -> KafkaSettings:
    """How to reach Kafka with a short time to answer, unless the configuration sets one."""
    kafka = kafka_settings(settings)
    return replace(kafka, options={"bootstrap_timeout_ms": _ANSWER_MS, **kafka.options})


def waiting_since(kafka: KafkaSettings, lags: Sequence[PartitionLag]) -> dict[KafkaPartition, int]:
    """Timestamp in epoch milliseconds of the first record not committed, where there is one and it can be read."""
    begins = {(lag.topic, lag.partition): lag.end - lag.lag for lag in lags if lag.lag}
    ends = {(lag.topic, lag.partition): lag.end for lag in lags}
    timestamps: dict[KafkaPartition, int] = {}
    if not begins:
        return timestamps
    try:
        for record in read_range(
            kafka, {name: (at, min(ends[name], at + _PROBED_OFFSETS)) for name, at in begins.items()}
        ):
            timestamps.setdefault((record.position.topic, record.position.partition), record.timestamp_ms)
            if len(timestamps) == len(begins):
                break
    except MilvusStreamError:
        return timestamps  # an open transaction can hide every record; an age is not worth an error
    return timestamps


def dead_letter_topic(settings: Settings) -> tuple[KafkaSettings, str]:
    """How to reach Kafka, and the name of the existing dead-letter topic. Raises UsageError, Unavailable."""
    kafka, topic = quick_kafka(settings), settings.kafka.dead_letter_topic
    facts = topic_facts(kafka, [topic])[topic]
    if isinstance(facts, MissingTopic):
        near = f" Did you mean {' or '.join(facts.similar)}?" if facts.similar else ""
        raise UsageError(
            f"kafka.dead_letter_topic: there is no topic {topic} on {kafka.bootstrap_servers}; a worker creates it at "
            f"its first start.{near}"
        )
    return kafka, topic
