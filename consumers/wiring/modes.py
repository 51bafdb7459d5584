"""The modes of writing, upsert and append, as values: nothing else compares the names of the setting `mode`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consumers.config import Settings
from pipeline.ingest import APPEND, UPSERT, WriteMode
from pipeline.records import Position
from pipeline.store import (
    AppendIds,
    AppendWriter,
    CollectionStamp,
    Ledger,
    MilvusApi,
    MilvusPartitions,
    Partitioning,
    UpsertWriter,
    Writer,
    ledger_name,
    marks_name,
)


@dataclass(frozen=True, slots=True)
class WriteTarget:
    """A collection that is open for writing."""

    api: MilvusApi
    collection: str
    partitions: MilvusPartitions
    partitioning: Partitioning
    fingerprint: str
    """Identifies model and chunking: after a change of either, a record that is read again is written again."""
    append_ids: AppendIds
    """As the collection's stamp says."""
    durable: Callable[[Position], bool] = lambda _: False
    """Whether all that the record of this position has changed survives the loss of the machine."""
    nodes: bool = False
    """Whether rows have LlamaIndex's fields."""
    verify: bool = True
    """Compare rows with the ledger where a record is met again. Not beside live workers, who change them."""


@dataclass(frozen=True, slots=True)
class Mode:
    """What differs between the modes outside the ingest flow."""

    one_version: bool
    """A document has one current version, which the ledger knows; deletes exist. Else every record is a document."""
    flow: WriteMode
    new_writer: Callable[[WriteTarget, Ledger | None], Writer]
    """Builds a writer; the ledger may be shared."""

    def collections(self, name: str) -> tuple[str, ...]:
        """The collections that a writer into `name` fills, and the marks, which are flushed last."""
        return (name, *((ledger_name(name),) if self.one_version else ()), marks_name(name))


def _upsert_writer(target: WriteTarget, ledger: Ledger | None) -> Writer:
    return UpsertWriter(
        target.api,
        target.collection,
        target.partitions,
        target.partitioning,
        fingerprint=target.fingerprint,
        ledger=ledger,
        durable=target.durable,
        verify=target.verify,
        nodes=target.nodes,
    )


def _append_writer(target: WriteTarget, _: Ledger | None) -> Writer:
    return AppendWriter(
        target.api,
        target.collection,
        target.partitions,
        target.partitioning,
        append_ids=target.append_ids,
        nodes=target.nodes,
    )


_MODES: Mapping[str, Mode] = {
    "upsert": Mode(one_version=True, flow=UPSERT, new_writer=_upsert_writer),
    "append": Mode(one_version=False, flow=APPEND, new_writer=_append_writer),
}


def mode_of(settings: Settings) -> Mode:
    """The configured mode."""
    return mode_named(settings.mode)


def mode_named(name: str) -> Mode:
    """The mode of this name."""
    return _MODES[name]


def mode_stamped(stamp: CollectionStamp | None, settings: Settings) -> Mode:
    """The mode that a collection's stamp names; the configured one where it names none that is known here."""
    named = None if stamp is None or stamp.mode is None else _MODES.get(stamp.mode)
    return named or mode_of(settings)
