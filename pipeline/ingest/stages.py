"""What travels through the stages of the ingest flow."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.ingest.batching import Batch
from pipeline.records import Chunk, Delete, EmbeddedPut, Position, Put, Rejected, SourceRecord
from pipeline.store import Vectors, WritePlan


@dataclass(slots=True)
class Work:
    """One micro-batch on its way through the stages."""

    batch: Batch
    number: int
    started: float
    plan: WritePlan = field(init=False)
    chunks: Sequence[Sequence[Chunk]] = ()
    reusable: Sequence[Vectors] = ()
    """For each document in `chunks`: vectors that are stored already, by the chunk's text."""
    embedded: Sequence[EmbeddedPut] = ()
    finished: Counter[str] = field(default_factory=Counter)
    rejected: set[Position] = field(default_factory=set)
    decoded: Sequence[SourceRecord] = ()
    refused_late: list[Rejected] = field(default_factory=list)
    """Of those in `decoded`: what Milvus or the model would not take."""
    folded: Sequence[Put | Delete] = ()
    """Given up for another operation of the same key in this batch."""
    refused: set[tuple[str | None, str]] = field(default_factory=set)
    """Keys of the operations that were kept and could not be stored after all."""
    embed_s: float = 0.0

    @property
    def tokens(self) -> int:
        """What the model has to read."""
        return sum(
            len(chunk.token_ids)
            for document, known in zip(self.chunks, self.reusable, strict=True)
            for chunk in document
            if chunk.text not in known
        )

    @property
    def positions(self) -> str:
        """`topic/partition/first-last` for each Kafka partition in the batch, for the log."""
        ranges: dict[tuple[str, int], tuple[int, int]] = {}
        for record in self.batch.records:
            topic, partition, offset = record.position
            first, _ = ranges.get((topic, partition), (offset, offset))
            ranges[topic, partition] = (first, offset)
        return " ".join(f"{topic}/{number}/{first}-{last}" for (topic, number), (first, last) in ranges.items())

    @property
    def taken_back(self) -> Sequence[SourceRecord]:
        """Records folded into one that could not be stored: they count again, as they would have in another batch.

        Should a later batch have written the key already, the ledger finds them to be older.
        """
        if not self.refused or not self.folded:
            return ()
        positions = {operation.position for operation in self.folded if operation.key in self.refused}
        return [record for record in self.batch.records if record.position in positions]


@dataclass(frozen=True, slots=True)
class Barrier:
    """Goes through every stage behind the batches before it; whoever set it waits until it has reached the end."""

    passed: threading.Event = field(default_factory=threading.Event)
