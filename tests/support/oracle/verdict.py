"""Everything in which what is stored differs from what must be, by kind."""

from collections.abc import Collection
from dataclasses import dataclass, field, fields


@dataclass(repr=False)
class Verdict:
    """Everything that is wrong, by kind."""

    expected_documents: int = 0
    stored_rows: int = 0
    expected_dead_letters: int = 0
    dead_letters_sent: int = 0
    """With those that a redo has sent again."""
    lost: list[str] = field(default_factory=list)
    """Wanted and not there."""
    stale: list[str] = field(default_factory=list)
    """Not the newest version, or not all of it: text, metadata, chunks, vectors."""
    duplicates: list[str] = field(default_factory=list)
    """A chunk or an id that is there twice."""
    misplaced: list[str] = field(default_factory=list)
    """Not in the Milvus partition of its event time."""
    resurrected: list[str] = field(default_factory=list)
    """There, and deleted or never produced."""
    dead_letters_missing: list[str] = field(default_factory=list)
    dead_letters_wrong: list[str] = field(default_factory=list)
    """Of a good record, or not what the record was."""
    offsets_behind: list[str] = field(default_factory=list)
    """The group is not at the end."""
    ledger_wrong: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    """As it must be, and the ledger row says that a change has not ended."""
    ahead: list[str] = field(default_factory=list)
    """Committed and neither stored nor dead-lettered; or gone before what replaces it was there."""
    shared: list[str] = field(default_factory=list)
    """No harm where `audit` finds and repairs it: of documents in several Kafka partitions, which two workers may write
    at one instant."""
    unnoticed: list[str] = field(default_factory=list)
    """Shared and not found by `audit`, or not repaired."""

    @property
    def found(self) -> dict[str, list[str]]:
        """What is wrong, by kind; nothing for kinds of which there is none."""
        kinds = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in kinds.items() if isinstance(value, list) and value}

    @property
    def harms(self) -> int:
        """How many there are; without the shared ones."""
        return sum(len(some) for some in self.found.values()) - len(self.shared)

    def set_apart(self, shared: Collection[str]) -> None:
        """Move what is wrong with these documents to `shared`."""
        for kind, lines in self.found.items():
            if lines is not self.shared:
                apart = [line for line in lines if any(is_about(line, name) for name in shared)]
                setattr(self, kind, [line for line in lines if line not in apart])
                self.shared += [f"{kind}: {line}" for line in apart]

    def add(self, other: "Verdict") -> None:
        """Add what another group's collection, or another moment, has shown."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def about(self, name: str) -> list[str]:
        """What is wrong with one document."""
        found = [
            line for lines in self.found.values() if lines is not self.shared for line in lines if is_about(line, name)
        ]
        return found + [line for line in self.shared if is_about(line.partition(": ")[2], name)]

    def __repr__(self) -> str:
        lines = [
            f"{self.harms} harms; {self.expected_documents} documents and {self.expected_dead_letters} dead letters "
            f"wanted, {self.stored_rows} rows stored"
        ]
        for name, some in self.found.items():
            lines += [f"  {name}: {len(some)}", *(f"    {each}" for each in some[:5])]
        return "\n".join(lines)


def is_about(line: str, name: str) -> bool:
    """Whether a line of a verdict is about the document of that name: it begins with it."""
    return line.startswith(name) and line[len(name) :][:1] in ("", ":", ",", " ")
