"""The stored vectors of a document or of one of its chunks, as what others are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.query.canary_rows import is_canary
from pipeline.query.documents.errors import NoLedger, NoSuchDocument
from pipeline.query.documents.reads import POSITION_FIELDS, DocumentReads, Row, position_in, tenant_of
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.request.metadata_expressions import metadata_reference
from pipeline.query.version_check import version_age
from pipeline.records import TENANT_FIELD, VECTOR_FIELD
from pipeline.store import Key, StoredVersion, literal

_LEAST_LENGTH = 1e-6
"""Of a mean, in lengths of its vectors: below it its direction is rounding."""


@dataclass(frozen=True, slots=True)
class Likened:
    """What documents are compared with."""

    key: Key
    """The document that it is of."""
    vectors: NDArray[np.float32]
    """Shape (1, dimension)."""
    warnings: tuple[str, ...] = ()

    def others(self) -> str:
        """The expression for rows of other documents; one of another tenant with the same id is another one."""
        tenant, doc_id = self.key
        reference = metadata_reference(TENANT_FIELD)
        another = f"(exists {reference})"
        if tenant is not None:
            another = f"(not (exists {reference})) or {reference} != {literal(tenant)}"
        return f"(doc_id != {literal(doc_id)} or {another})"


def mean_vector(rows: Sequence[Row]) -> NDArray[np.float32]:
    """The mean of the rows' vectors, scaled to their own mean length, which is 1 where the model normalises.

    Shape (1, dimension). Raises InvalidRequest where the vectors cancel out.
    """
    vectors = np.stack([row[VECTOR_FIELD] for row in rows]).astype(np.float64)
    if len(vectors) == 1:
        return vectors.astype(np.float32)
    mean = vectors.mean(axis=0)
    length = float(np.linalg.norm(mean))
    usual = float(np.linalg.norm(vectors, axis=1).mean())
    if not length > _LEAST_LENGTH * usual:
        raise InvalidRequest("/doc_id", "names a document whose chunks have no common direction; take one by chunk_id")
    scaled: NDArray[np.float32] = (mean * (usual / length)).astype(np.float32)
    return scaled[np.newaxis]


def chunk_vector(reads: DocumentReads, chunk_id: str, tenant: str | None) -> Likened:
    """The vector of one row. Raises NoSuchDocument, also for a row of an older version."""
    expression = f"id == {literal(chunk_id)}"
    rows = reads.query(reads.within(tenant, expression), (*POSITION_FIELDS, TENANT_FIELD, VECTOR_FIELD))
    if not rows or is_canary(rows[0]["doc_id"]):
        raise NoSuchDocument("no chunk with this id is stored")
    key: Key = (tenant_of(rows[0]), rows[0]["doc_id"])
    warnings: tuple[str, ...] = ()
    if reads.snapshot.one_version:
        try:
            entry = reads.entry(key)
        except NoLedger:
            entry = None
        if entry is not None:
            stored = StoredVersion(entry.written_at or entry.position, entry.versioned, entry.pending)
            age = version_age(position_in(rows[0]), stored)
            if age == "older" or (entry.state == "deleted" and not entry.pending):
                raise NoSuchDocument("no chunk with this id is stored: its document has changed since")
            if age == "unknown":
                warnings = ("the chunk may be of an older version of its document, which is being changed",)
    return Likened(key, mean_vector(rows[:1]), warnings)
