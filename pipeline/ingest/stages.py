"""The frozen values that pass from stage to stage of the ingest flow.

Submitted -> Decoded -> Planned -> Embedded -> Written

Each type has the fields that are known after its stage and no others. A value that a later stage does not need is not
held by the later type, so its memory is released: chunks that wait for the model end with `Planned`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.ingest.queues.batching import Batch
from pipeline.intake import fold
from pipeline.records import Chunk, Delete, EmbeddedPut, KafkaPartition, Position, Put, Rejected, SourceRecord
from pipeline.store import Applied, Key, Vectors, WritePlan


@dataclass(frozen=True, slots=True)
class Barrier:
    """A mark in the queues behind all batches submitted before an assignment.

    It returns to the first stage once every batch before it has been acknowledged.
    """


@dataclass(frozen=True, slots=True)
class Submitted:
    """A batch that the flow has accepted. Known: its raw records. Nothing is decoded."""

    number: int
    """Rises from batch to batch; a revocation holds for every batch up to a number. A part has a number of its own."""
    batch: Batch
    started: float
    """When it was submitted, monotonic seconds."""
    rejected: Mapping[Position, "Refused"] = field(default_factory=dict)
    """Records of the batch that were rejected before and wait until their document is whole; see `restore.py`."""

    @property
    def offset_ranges(self) -> str:
        """`topic/partition/first-last` for each Kafka partition in the batch, for the log."""
        ranges: dict[KafkaPartition, tuple[int, int]] = {}
        for record in self.batch.records:
            topic, partition, offset = record.position
            first, _ = ranges.get((topic, partition), (offset, offset))
            ranges[topic, partition] = (first, offset)
        return " ".join(f"{topic}/{number}/{first}-{last}" for (topic, number), (first, last) in ranges.items())

    def cut(self, later: Collection[Position]) -> tuple["Submitted", "Submitted"]:
        """The batch without these records, and one of these records alone.

        A batch owns one number for each of its records (see `BatchesInFlight.open`), so the number of the second part
        is free, and a revocation or assignment holds for both parts or for none.
        """
        records = self.batch.records
        first = [record for record in records if record.position not in later]
        second = [record for record in records if record.position in later]
        return (
            replace(self, batch=_batch_of(first, self.batch)),
            replace(self, number=self.number + len(first), batch=_batch_of(second, self.batch), rejected={}),
        )


def _batch_of(records: Sequence[SourceRecord], whole: Batch) -> Batch:
    return Batch(records, sum(record.size for record in records), whole.trigger)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A batch whose records are decoded and folded. Known: the operations to plan, and which records are rejected.

    A record whose Kafka partition was revoked before decoding is in none of the fields but `submitted`.
    """

    submitted: Submitted
    records: Sequence[SourceRecord]
    """The records that could be decoded, in the order of the batch."""
    operations: Sequence[Put | Delete]
    """What is to be planned; in upsert mode at most one operation a key."""
    folded: Sequence[Put | Delete]
    """Operations replaced by the one of the same key in `operations`."""
    rejected: frozenset[Position]
    """Positions of the records that could not be decoded. The dead letters have them; those in `restoring`, soon."""
    restoring: Sequence["Refused"] = ()
    """Rejected records whose documents are restored with this batch; the dead letters get them behind it."""
    restored: Mapping[Key, KafkaPartition] = field(default_factory=dict)
    """Documents in `operations` that are restored, and the Kafka partition of the rejected record that needs it."""
    postponed: Sequence["Refused"] = ()
    """Rejected records that wait until a batch in flight has written their document."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An operation that can never be stored. The dead letters have its record, or get it later."""

    key: Key
    rejected: Rejected
    waits: bool = False
    """Its document is between two versions: the record is submitted again, and is rejected when that is restored."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A batch compared with the ledger and cut into chunks. Known: what to embed, what to write, what to delete.

    The plan is provisional where a batch before it is still in flight: the writer compares those keys again.
    """

    decoded: Decoded
    plan: WritePlan
    refused: Sequence[Refused]
    chunks: Sequence[Sequence[Chunk]]
    """For each document in `plan.to_embed`."""
    reusable: Sequence[Vectors]
    """For each document in `chunks`: stored vectors by the text of the chunk."""
    sizes: Sequence[int]
    """For each document in `chunks`: tokens that the model has to embed; of a text that is repeated only once."""
    unfinished: Collection[Key] = ()
    """Documents between two versions: if one is refused, its record waits until it is restored."""

    @property
    def tokens(self) -> int:
        """Tokens that the model has to embed."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A batch ready to be written. Known: the vectors of every document that the model could embed."""

    decoded: Decoded
    plan: WritePlan
    refused: Sequence[Refused]
    """By the plan or because the model gave no finite vector."""
    puts: Sequence[EmbeddedPut]
    embed_s: float
    """Seconds of the embed call that this batch took part in."""


@dataclass(frozen=True, slots=True)
class Written:
    """A batch acknowledged by Milvus. Known: how every one of its records has ended, or that it is decided again."""

    decoded: Decoded
    plan: WritePlan
    applied: Applied
    refused: Sequence[Refused]
    """By the plan, the model or Milvus. The dead letters have all of them."""
    redecided: Sequence[SourceRecord]
    """Records to be submitted again, see `records_to_redecide`."""
    embed_s: float
    write_s: float

    @property
    def dead_lettered(self) -> frozenset[Position]:
        """Positions of the records that the dead letters have, rejected or refused."""
        return self.decoded.rejected.union(entry.rejected.position for entry in self.refused if not entry.waits)

    @property
    def finished(self) -> Sequence[SourceRecord]:
        """Records that Milvus's acknowledgement finishes.

        Not a record with the dead letters, which confirm it themselves, and not one that is decided again.
        """
        left_out = self.dead_lettered.union(record.position for record in self.redecided)
        return [record for record in self.decoded.submitted.batch.records if record.position not in left_out]

    @property
    def _folded_and_applied(self) -> int:
        """See `folded_deletes`."""
        folded = {operation.position for operation in self.decoded.folded}
        return len(folded & _decided(self.plan, self.applied)) if folded else 0

    @property
    def outcomes(self) -> Mapping[str, int]:
        """Records by outcome, as in `ingest_records_total`."""
        return {
            "written": self.applied.written - self._restored(Put, self.applied.written),
            "deleted": self.applied.deleted - self._restored(Delete, self.applied.deleted),
            "unchanged": self.plan.unchanged + self.applied.unchanged,
            "stale": self.plan.stale + self.applied.stale,
            "folded": len(self.decoded.folded) - len(self._unfolded) - self._folded_and_applied,
            "dead_lettered": len(self.dead_lettered),
        }

    @property
    def waiting(self) -> Sequence[Refused]:
        """Rejected and refused records that are submitted again, because their documents are not whole yet."""
        return [*self.decoded.postponed, *(entry for entry in self.refused if entry.waits)]

    @property
    def _unfolded(self) -> Sequence[SourceRecord]:
        waiting = {entry.rejected.position for entry in self.waiting}
        waiting |= {operation.position for operation, _ in self.applied.set_aside}
        return [record for record in self.redecided if record.position not in waiting]

    def _restored(self, kind: type[Put | Delete], limit: int) -> int:
        """Documents written, or deleted, for which no record of the batch counts as such."""
        refused = {operation.key for operation, *_ in (*self.plan.refused, *self.applied.refused)}
        refused |= {operation.key for operation, _ in self.applied.set_aside}
        restored = self.decoded.restored.keys() - refused
        return min(limit, sum(isinstance(one, kind) and one.key in restored for one in self.decoded.operations))


def sizes_of(chunks: Sequence[Sequence[Chunk]], reusable: Sequence[Vectors]) -> Sequence[int]:
    """As in `Planned.sizes`."""
    texts: set[str] = set()
    sizes = []
    for document, stored in zip(chunks, reusable, strict=True):
        size = 0
        for chunk in document:
            if chunk.text not in stored and chunk.text not in texts:
                texts.add(chunk.text)
                size += len(chunk.token_ids)
        sizes.append(size)
    return sizes


def records_to_redecide(
    decoded: Decoded,
    plan: WritePlan,
    applied: Applied,
    refused: Sequence[Refused],
    left_out: Collection[Key] = (),
) -> Sequence[SourceRecord]:
    """Records that are submitted again.

    1. Records that were folded into an operation that could not be stored, but for those applied all the same. They
       count again, as they would have in a batch of their own. If a later batch has written the key by then, the
       ledger finds them to be older.
    2. Rejected and refused records whose document is not whole yet.
    3. Records set aside by the writer, and those folded into them.
    4. Records that were folded into an operation of `left_out`: it was not written, because its Kafka partition was
       revoked.
    """
    set_aside = [operation for operation, _ in applied.set_aside]
    keys = {entry.key for entry in refused}.union((operation.key for operation in set_aside), left_out)
    positions = {operation.position for operation in decoded.folded if operation.key in keys}
    positions -= _decided(plan, applied)
    waiting = [*decoded.postponed, *(entry for entry in refused if entry.waits)]
    positions.update(entry.rejected.position for entry in waiting)
    positions.update(operation.position for operation in set_aside)
    if not positions:
        return ()
    return [record for record in decoded.submitted.batch.records if record.position in positions]


def _decided(plan: WritePlan, applied: Applied) -> set[Position]:
    """Positions of the operations without rows that the batch has applied, those of `folded_deletes` among them."""
    return {operation.position for operation in (*plan.deletes, *plan.advances, *applied.instead)}


def folded_deletes(decoded: Decoded, keys: Collection[Key]) -> Sequence[Delete]:
    """Deletes without version that were folded into an operation of one of these keys, the newest of each.

    They are applied with their batch if that operation cannot be stored. If they waited to be decided again, a later
    batch would compare the versions from before and after them, and drop a record that counts.
    """
    deletes = [
        operation
        for operation in decoded.folded
        if isinstance(operation, Delete) and operation.version is None and operation.key in keys
    ]
    return [operation for operation in fold(deletes).operations if isinstance(operation, Delete)]
