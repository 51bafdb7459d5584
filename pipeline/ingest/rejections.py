"""Rejected and refused records on their way from a stage to the dead letters."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import structlog

from pipeline.ingest.ports import DeadLetterLimit, DeadLetterSink
from pipeline.ingest.stages import Refused, Submitted
from pipeline.records import Delete, Put, Rejected, SourceRecord
from pipeline.store import Key

log = structlog.get_logger(__name__)


class Rejections:
    """Sends records that can never be stored to the dead letters, and holds their number to the limit."""

    def __init__(self, sink: DeadLetterSink, limit: DeadLetterLimit | None) -> None:
        """`limit` None: any number of records may be rejected."""
        self._sink = sink
        self._limit = limit

    def check(self, stage: str, records: Sequence[SourceRecord], rejected: Sequence[Rejected]) -> None:
        """Count a stage's next records against the limit. Raises TooManyRejected."""
        if self._limit is not None:
            self._limit.check(stage, records, rejected)

    def send(self, rejected: Sequence[Rejected], batch: int) -> None:
        """Hand these records of a batch to the dead letters, which confirm each with a receipt of its own."""
        for rejection in rejected:
            self._sink.send(replace(rejection, batch=batch))
            log.debug(
                "record.rejected",
                position="{}/{}/{}".format(*rejection.position),
                reason=rejection.reason,
                why=rejection.message,
            )

    def refuse(
        self,
        submitted: Submitted,
        refusals: Sequence[tuple[Put | Delete, str, str]],
        stage: str,
        unfinished: Collection[Key] = (),
    ) -> Sequence[Refused]:
        """Send the records of operations that cannot be stored; `refusals`: operation, reason, message.

        Not those of `unfinished` documents: these records wait. An operation that restores a document has no record in
        the batch, so there is nothing to send.
        """
        if not refusals:
            return ()
        records = {record.position: record for record in submitted.batch.records}
        refused = [
            Refused(
                operation.key,
                Rejected(records[operation.position], stage, reason, message),
                waits=operation.key in unfinished,
            )
            for operation, reason, message in refusals
            if operation.position in records
        ]
        self.send([entry.rejected for entry in refused if not entry.waits], submitted.number)
        return refused
