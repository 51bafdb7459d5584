"""The state of one batch while the upsert writer applies it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.records import Delete, EmbeddedPut
from pipeline.store.writing.protocol.decisions import Change, DocumentHashes, Entry, Footprint, Key


@dataclass(frozen=True, slots=True)
class Step:
    """An operation whose rows change; a delete has no hashes, put and place."""

    operation: Change
    hashes: DocumentHashes | None
    put: EmbeddedPut | None
    place: Footprint
    """Where the rows of the new version are."""
    beyond: Footprint
    """Where else rows may be, beyond the footprint in the ledger."""


@dataclass(slots=True)
class Application:
    """The steps of a batch and what became of them so far."""

    steps: dict[Key, Step] = field(default_factory=dict)
    advanced: list[Entry] = field(default_factory=list)
    refused: dict[Key, tuple[str, str]] = field(default_factory=dict)
    set_aside: dict[Key, str] = field(default_factory=dict)
    instead: dict[Key, Delete] = field(default_factory=dict)
    """Deletes in place of puts that Milvus has refused or set aside. The intent of such a put covers its rows."""
    fallback: Mapping[Key, Delete] = field(default_factory=dict)
    """As in `WritePlan`."""
    rewritten: Collection[Key] = ()
    """Keys whose rows differed from the ledger: their old version is no whole one."""
    unchanged: int = 0
    stale: int = 0

    def accepted(self) -> Iterator[tuple[Key, Step]]:
        """The steps that Milvus has not refused so far, and the deletes in place of those that it has."""
        for key, step in self.steps.items():
            if key in self.instead:
                yield key, Step(self.instead[key], None, None, {}, step.beyond)
            elif key not in self.refused and key not in self.set_aside:
                yield key, step
