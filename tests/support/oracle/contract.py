"""What a group makes of records: the part of its settings that decides what must be stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import shake_128
from math import sqrt


@dataclass(frozen=True, slots=True)
class Contract:
    """The mapping of fields and the mode, under the names of the public settings."""

    id_field: str = "id"
    text_field: str = "text"
    time_field: str = "event_time"
    version_field: str | None = None
    tenant_field: str | None = None
    delete_field: str | None = None
    append: bool = False
    """Every record is a document of its own, named by its position."""
    dimension: int | None = None
    """N of the model `hash:N`: the vectors are compared, too."""

    @property
    def consumed(self) -> set[str]:
        """The fields that are no metadata."""
        named = (self.version_field, self.tenant_field, self.delete_field)
        return {self.id_field, self.text_field, self.time_field, *(name for name in named if name)}


@dataclass(frozen=True, slots=True)
class Scope:
    """What is compared with what: the topics of one group, and what it has made of them."""

    bootstrap: str
    topics: tuple[str, ...]
    group: str
    dead_letter_topic: str
    collection: str
    contract: Contract = Contract()


def name_of(tenant: str | None, doc_id: str) -> str:
    """A document's name in a verdict. No tenant in the tests has a slash."""
    return doc_id if tenant is None else f"{tenant}/{doc_id}"


def hash_vector(text: str, dimension: int) -> Sequence[float]:
    """The vector that the model `hash:N` gives a text.

    Its definition: N bytes of SHAKE128 over the text in UTF-8, each less 127.5, scaled to length 1.
    """
    components = [byte - 127.5 for byte in shake_128(text.encode()).digest(dimension)]
    length = sqrt(sum(component * component for component in components))
    return [component / length for component in components]
