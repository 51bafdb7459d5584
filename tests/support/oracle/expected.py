"""What must be stored, recomputed from the raw topics, and whether rows are exactly that."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from confluent_kafka import Message

from tests.support.oracle.contract import Contract, hash_vector, name_of
from tests.support.oracle.observed import Log, Place, Row, headers_of
from tests.support.rigs.load import POISON_HEADER

_COLUMNS = {"id", "doc_id", "chunk", "text", "vector", "sparse", "event_time"}
_COLUMNS |= {"kafka_topic", "kafka_partition", "kafka_offset"}
_RESERVED = _COLUMNS | {"tenant", "$meta"}
_PARTITION_NAMES = {"h": "h{0:%Y%m%d%H}", "d": "d{0:%Y%m%d}", "w": "w{0:%GW%V}", "m": "m{0:%Y%m}", "y": "y{0:%Y}"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One document as a record describes it, with what its rows must say."""

    doc_id: str
    text: str
    event_time: int
    metadata: dict[str, Any]
    """With the tenant, which a row has among its metadata."""


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """What one accepted record made of its document; None: deleted."""

    place: Place
    document: Wanted | None
    number: int | None = None
    """Of the version field."""
    time_ms: int = 0
    """Kafka's timestamp."""

    @property
    def offset(self) -> int:
        return self.place[2]

    @property
    def log(self) -> Log:
        return self.place[:2]


class History(list[Version]):
    """Every accepted record of one document, each Kafka partition in its order.

    1. All in one Kafka partition: they are processed in turn. A smaller version number than the document's loses;
       without a number on one side the later record wins.
    2. In several: only where each has a number, and then the greatest one wins in whatever order they arrive; of
       equal ones the one with the later timestamp. Of records of one Kafka partition with one number the timestamps
       count as rising, so that there the later record wins.
    """

    @property
    def newest(self) -> Version:
        """What the document is in the end."""
        return self._stages()[-1]

    @property
    def last(self) -> list[Version]:
        """The newest one, and in several Kafka partitions all of its number and content: any of them may be named."""
        newest = self.newest
        same = [each for each in self if (each.number, each.document) == (newest.number, newest.document)]
        return same if self.shared else [newest]

    @property
    def decided_by_clocks(self) -> bool:
        """Whether it depends on the worker's clock if a record is accepted: its event time is behind its timestamp."""
        return any(each.document is not None and each.document.event_time > each.time_ms for each in self)

    def since(self, committed: Mapping[Log, int]) -> tuple[list[Version], bool]:
        """What the document may be while more than everything below these offsets is processed, in that order.

        And whether it must be one of them: False where no record of it is below.
        """
        stages = self._stages()
        below = [each for each in self if each.offset < committed.get(each.log, 0)]
        if not below:
            return list(dict.fromkeys(stages)), False
        if not self.shared:
            return list(dict.fromkeys(stages[len(below) - 1 :])), True
        order = self._order()
        least = max(order[each] for each in below)
        return [each for each in stages if order[each] >= least], True

    @property
    def shared(self) -> bool:
        """Whether its records are in several Kafka partitions."""
        return len({each.log for each in self}) > 1

    def _order(self) -> dict[Version, tuple[int, int]]:
        """Of each record its number and its timestamp, or that of an earlier one of its log with its number."""
        latest: dict[tuple[Log, int], int] = {}
        order = {}
        for each in self:
            of = each.log, _number(each)
            latest[of] = max(each.time_ms, latest.get(of, each.time_ms))
            order[each] = _number(each), latest[of]
        return order

    def _stages(self) -> list[Version]:
        if self.shared:
            assert all(each.number is not None for each in self), f"{self[0]}: in two Kafka partitions"
            return sorted(self, key=self._order().__getitem__)
        stages: list[Version] = []
        for each in self:
            before = stages[-1] if stages else None
            loses = before is not None and before.number is not None and each.number is not None
            stages.append(before if before and loses and _number(each) < _number(before) else each)
        return stages


def _number(version: Version) -> int:
    assert version.number is not None
    return version.number


@dataclass
class Expected:
    """What must be there once everything has been processed."""

    versions: dict[str, History] = field(default_factory=dict)
    """By the document's name."""
    poison: dict[Place, Message] = field(default_factory=dict)
    """The records that must be dead-lettered."""

    @property
    def documents(self) -> dict[str, Wanted]:
        """The documents that are not deleted."""
        newest = ((name, history.newest.document) for name, history in self.versions.items())
        return {name: document for name, document in newest if document is not None}

    @property
    def shared(self) -> set[str]:
        """Names of the documents with records in several Kafka partitions."""
        return {name for name, history in self.versions.items() if history.shared}


def expected(records: Sequence[Message], contract: Contract = Contract()) -> Expected:  # noqa: B008 - frozen
    """Recompute from the raw topics, given in the order of each Kafka partition."""
    result = Expected()
    for message in records:
        place = (message.topic() or "", message.partition() or 0, message.offset() or 0)
        if POISON_HEADER in headers_of(message):
            result.poison[place] = message
            continue
        name, version = _read(message, place, contract)
        if _is_refused(message, version, contract):
            result.poison[place] = message
        else:
            result.versions.setdefault(name, History()).append(version)
    return result


def _is_refused(message: Message, version: Version, contract: Contract) -> bool:
    """Whether a record that is good elsewhere deletes where it cannot."""
    if version.document is not None:
        return False
    return contract.append or (message.value() is None and contract.tenant_field is not None)


def _read(message: Message, place: Place, contract: Contract) -> tuple[str, Version]:
    key, value = message.key() or b"", message.value()
    sent_ms = time = message.timestamp()[1]
    if value is None:
        return key.decode(), Version(place, None, time_ms=sent_ms)
    if not value.lstrip().startswith(b"{"):
        document = Wanted(key.decode(), value.decode(), time, {})
        return _named(document, None, place, contract), Version(place, document, time_ms=sent_ms)
    body = json.loads(value)
    doc_id = str(body.get(contract.id_field, key.decode()))
    tenant = None if contract.tenant_field is None else str(body[contract.tenant_field])
    number = None if contract.version_field is None else int(body[contract.version_field])
    if contract.delete_field is not None and body.get(contract.delete_field):
        return name_of(tenant, doc_id), Version(place, None, number, sent_ms)
    time = _milliseconds(body.get(contract.time_field, time))
    metadata = {name: value for name, value in body.items() if name not in contract.consumed}
    metadata = {f"meta_{name}" if name in _RESERVED else name: value for name, value in metadata.items()}
    if tenant is not None:
        metadata["tenant"] = tenant
    document = Wanted(doc_id, body[contract.text_field], time, metadata)
    return _named(document, tenant, place, contract), Version(place, document, number, sent_ms)


def _named(document: Wanted, tenant: str | None, place: Place, contract: Contract) -> str:
    return "/".join(map(str, place)) if contract.append else name_of(tenant, document.doc_id)


def _milliseconds(time: Any) -> int:
    if isinstance(time, str):
        moment = datetime.fromisoformat(time)
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
        return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
    return int(time) if time >= 10**11 else round(time * 1_000_000) // 1000


def mismatch(document: Wanted, rows: Sequence[Row], dimension: int | None = None) -> str:
    """In what the rows are not exactly this version of the document; empty if in nothing."""
    rows = sorted(rows, key=lambda row: row["chunk"])
    if [row["chunk"] for row in rows] != list(range(len(rows))) or not rows:
        return f"chunks {[row['chunk'] for row in rows]}"
    for row in rows:
        metadata = {name: value for name, value in row.items() if name not in _COLUMNS}
        if metadata != document.metadata:
            names = sorted(metadata.keys() | document.metadata.keys())
            there = {name: metadata.get(name) for name in names if metadata.get(name) != document.metadata.get(name)}
            return f"chunk {row['chunk']} (of {row['kafka_offset']}) has {there}"
        if row["doc_id"] != document.doc_id:
            return f"chunk {row['chunk']} is of {row['doc_id']}"
        if row["event_time"] != document.event_time:
            return f"event time of chunk {row['chunk']}: {row['event_time']}, not {document.event_time}"
    if left := uncovered(document.text, [row["text"] for row in rows]):
        return f"the chunks do not cover {left!r}"
    return next(_wrong_vectors(rows, dimension), "") if dimension is not None else ""


def _wrong_vectors(rows: Sequence[Row], dimension: int) -> Iterator[str]:
    for row in rows:
        if not np.allclose(row["vector"], hash_vector(row["text"], dimension), atol=1e-5):
            yield f"the vector of chunk {row['chunk']} is not that of its text"


def uncovered(text: str, chunks: Sequence[str]) -> str:
    """The beginning of what no chunk holds, empty if all is held; chunks may overlap and touch."""
    at = 0
    for chunk in chunks:
        start = text.rfind(chunk, 0, at + len(chunk))
        if start < 0:
            return text[at : at + 40] or f"and hold {chunk[:40]!r} too"
        at = max(at, start + len(chunk))
    return text[at : at + 40]


def belongs(partition: str, event_time: int) -> bool:
    """Whether a Milvus partition is one in which an event time may be."""
    if partition == "_default":
        return True  # partitioning.by: none; otherwise nothing is ever stored there
    moment = _EPOCH + timedelta(milliseconds=event_time)
    # strftime writes the year 1 as "1", in the name it has four digits.
    name = _PARTITION_NAMES[partition[0]].format(moment)
    digits = len(str(moment.year))
    return f"{partition[0]}{'0' * (4 - digits)}{name[1:]}" == partition
