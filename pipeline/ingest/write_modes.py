"""What differs between upsert and append mode in the ingest flow, as one value made by the wiring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.intake import Folded, fold
from pipeline.records import Delete, Put


@dataclass(frozen=True, slots=True)
class WriteMode:
    """How the operations of a batch depend on one another and on other batches."""

    fold: Callable[[Sequence[Put | Delete]], Folded]
    """Reduces the operations of a batch to those that are planned."""
    writers: int
    """Batches written at a time."""


def _keep_all(operations: Sequence[Put | Delete]) -> Folded:
    return Folded(tuple(operations), ())


UPSERT = WriteMode(fold, writers=1)
"""One operation a key and batch. One writer: a batch's ledger rows must be final before the next batch begins."""
APPEND = WriteMode(_keep_all, writers=2)
"""Every record is a document of its own, so no batch depends on another. While the server works on one batch, Python
packs the next."""
