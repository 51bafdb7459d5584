"""What a redo must not take from the ledger: rows may be missing, and rows may be where it does not know of any.

A redo reads records again that were written, but possibly not durably. Milvus may have lost any part of it since: of
the rows, of the deletes and of the ledger rows. Records that are read for the first time are not concerned.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from pipeline.records import Position, Put
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.partition_names import Partitioning
from pipeline.store.writing.append_writer import Unfinished
from pipeline.store.writing.ledger.ledger import Ledger
from pipeline.store.writing.protocol.decisions import Decision, Earlier, Entry, Footprint, Key
from pipeline.store.writing.protocol.former_places import merged
from pipeline.store.writing.row_check import RowCheck


class RedoCheck:
    """Compares rows with the ledger where a record is met again, and says where else rows may be."""

    def __init__(
        self,
        api: MilvusApi,
        collection: str,
        ledger: Ledger,
        partitioning: Partitioning,
        *,
        durable: Callable[[Position], bool],
        verify: bool,
    ) -> None:
        """`durable`: whether all that the record of this position has changed survives the loss of the machine.

        `verify`: compare the rows at all.
        """
        self._ledger = ledger
        self._partitioning = partitioning
        self._durable = durable
        self._check = RowCheck(api, collection) if verify else None

    def damaged(
        self,
        decisions: Mapping[Key, Decision],
        entries: Mapping[Key, tuple[Entry | None, bool]],
        folded: Sequence[Earlier],
    ) -> set[Key]:
        """Keys of which nothing would be written although their rows differ from the ledger.

        That may be so where one of these shows that this is a redo of what may not have been durable:

        1. The record is the ledger's own.
        2. The record is newer and has the same content, and the ledger's own was folded into it.
        3. The same, and one was folded into it that an earlier owner may have written without a trace in the ledger.
        """
        met_again = {earlier.operation.position for earlier in folded}
        maybe_written = {earlier.operation.key for earlier in folded if earlier.chunks is not None}
        places = self.places(folded)
        doubted = {}
        for key, decision in decisions.items():
            entry = entries[key][0]
            if entry is None or decision not in (Decision.UNCHANGED, Decision.ADVANCE):
                continue
            if decision is Decision.UNCHANGED or entry.position in met_again or key in maybe_written:
                doubted[key] = entry._replace(former=merged(entry.former, places.get(key, {})))
        return self._damaged_rows(doubted)

    def unfinished(self, keys: Collection[Key], doubted: Collection[Key]) -> dict[Key, Unfinished]:
        """Documents between two versions, as `Writer.unfinished` describes it."""
        entries = {key: found for key, found in self._ledger.read(keys).items() if found[0] is not None}
        unfinished, settled = {}, {}
        for key, (entry, in_flight) in entries.items():
            if entry is not None and entry.pending:
                unfinished[key] = Unfinished(entry, in_flight)
            elif entry is not None and key in doubted and not in_flight:
                settled[key] = entry
        damaged = self._damaged_rows(settled)
        return unfinished | {key: Unfinished(settled[key], False) for key in damaged}

    def places(self, folded: Sequence[Earlier]) -> dict[Key, Footprint]:
        """Where rows of operations folded away may be."""
        places: dict[Key, Footprint] = {}
        for operation, chunks in folded:
            if isinstance(operation, Put) and chunks:
                with suppress(ValueError):  # no Milvus partition for this time: it was never stored
                    name = self._partitioning.place(operation.document.event_time, operation.timestamp_ms)
                    places[operation.key] = merged(places.get(operation.key, {}), {name: chunks})
        return places

    def beyond(self, entry: Entry | None, earlier: Footprint) -> Footprint:
        """Places where rows may be beyond the entry's footprint; `earlier`: of operations folded away."""
        if entry is None or not entry.former or self._durable(entry.position):
            return earlier
        return merged(entry.former, earlier)

    def forget(self) -> None:
        """Drop what is known of Milvus partitions."""
        if self._check is not None:
            self._check.forget()

    def _damaged_rows(self, entries: Mapping[Key, Entry]) -> set[Key]:
        if self._check is None or not entries:
            return set()
        return self._check.damaged(entries, **self._ledger.consistency())
