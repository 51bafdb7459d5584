"""What the pages before have shown, as digests that fit a cursor. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import orjson

from pipeline.query.ranking import document_of
from pipeline.store import Hit

DIGEST_BYTES = 8
"""Among 1,000 shown and 4,096 candidates, one in 4 * 10**12 answers would miss a document."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The documents, or the chunks, that were shown; the next page is the best of all others."""

    digests: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        """How many were shown."""
        return len(self.digests)

    def others(self, hits: Sequence[Hit], *, group_by: Literal["doc_id"] | None, one_version: bool) -> list[Hit]:
        """The hits that were not shown."""
        if not self.digests:
            return list(hits)
        return [hit for hit in hits if digest(hit, group_by=group_by, one_version=one_version) not in self.digests]

    def to_bytes(self) -> bytes:
        """The digests one after another."""
        return b"".join(sorted(self.digests))

    @classmethod
    def from_bytes(cls, joined: bytes) -> "Returned":
        """What `to_bytes` wrote."""
        return cls(frozenset(joined[at : at + DIGEST_BYTES] for at in range(0, len(joined), DIGEST_BYTES)))


NOTHING = Returned()


def digest(hit: Hit, *, group_by: Literal["doc_id"] | None, one_version: bool) -> bytes:
    """What a later page must not show again.

    1. One result a document: the document, also in a later version.
    2. Every chunk, of the newest version: the chunk by its number. Its id changes with the time partition.
    3. Every chunk of every record (mode append): the row.
    """
    tenant, doc_id = document_of(hit)
    identity = [tenant, doc_id] if group_by else [tenant, doc_id, hit.fields["chunk"]] if one_version else [hit.id]
    return blake2b(orjson.dumps(identity, default=repr), digest_size=DIGEST_BYTES).digest()
