"""The interfaces through which the ingest flow rejects records, and reads earlier ones again."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.records import Position, Rejected, SourceRecord


class DeadLetterSink(Protocol):
    """Where rejected records go. It confirms each one with a receipt of its own."""

    def send(self, rejected: Rejected) -> None:
        """Take charge of the record; returns at once."""


class DeadLetterChannel(DeadLetterSink, Protocol):
    """A DeadLetterSink that delivers by itself: the worker starts, watches and closes it.

    A rejected record counts as finished only after its receipt.
    """

    def start(self) -> None:
        """Begin the delivery."""

    def assigned(self) -> None:
        """Records that were read and rejected before, by whichever worker, are read again from now on."""

    @property
    def has_room(self) -> bool:
        """False: the worker must not read more records until this is True again."""

    @property
    def problem(self) -> str | None:
        """Why nothing can be delivered at the moment; None while everything works."""

    def check(self) -> None:
        """Raise Stopped if the delivery has ended with an error."""

    def close(self, timeout_s: float) -> None:
        """Deliver the waiting records within the time, then stop; the rest is not confirmed."""


class DeadLetterLimit(Protocol):
    """Counts good and rejected records, in the order of each Kafka partition."""

    def check(self, stage: str, records: Sequence[SourceRecord], rejected: Sequence[Rejected]) -> None:
        """Count the next records of a stage and the rejected ones among them. Raises TooManyRejected."""


class RecordLookup(Protocol):
    """Records of Kafka read once more, at any position."""

    def read(self, topic_ids: Mapping[Position, str]) -> Mapping[Position, SourceRecord]:
        """The records at these positions that are still there; `topic_ids`: of which topic, "" where it is not known.

        Raises Unavailable.
        """
