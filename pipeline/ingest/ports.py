"""What the ingest flow asks of others for records that can never be stored."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.records import Rejected, SourceRecord


class DeadLetterSink(Protocol):
    """Where rejected records go; it confirms each one with a receipt of its own."""

    def send(self, rejected: Rejected) -> None:
        """Take charge of the record; returns at once."""


class DeadLetterLimit(Protocol):
    """Counts good and rejected records, in the order of each Kafka partition."""

    def judge(self, stage: str, records: Sequence[SourceRecord], rejected: Sequence[Rejected]) -> None:
        """The next records of a stage, with those of them that were rejected. Raises TooManyRejected."""
