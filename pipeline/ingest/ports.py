"""The interfaces through which the ingest flow rejects records that can never be stored."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.records import Rejected, SourceRecord


class DeadLetterSink(Protocol):
    """Where rejected records go. It confirms each one with a receipt of its own."""

    def send(self, rejected: Rejected) -> None:
        """Take charge of the record; returns at once."""


class DeadLetterLimit(Protocol):
    """Counts good and rejected records, in the order of each Kafka partition."""

    def check(self, stage: str, records: Sequence[SourceRecord], rejected: Sequence[Rejected]) -> None:
        """Count the next records of a stage and the rejected ones among them. Raises TooManyRejected."""
