"""The rows of canaries: documents that measure how long a record takes to become searchable, and are never shown.

A hit is left out after Milvus has answered. A filter in every search would cost more than the canary is worth: Milvus
would compare the id of every row, for the one or two rows that are there. Where rows are counted and not read, the
expression is the only way.
"""

from collections.abc import Sequence

from pipeline.records import CANARY_PREFIX
from pipeline.store import Hit, literal

_AFTER = CANARY_PREFIX[:-1] + chr(ord(CANARY_PREFIX[-1]) + 1)
EXCEPT_CANARIES = f"(doc_id < {literal(CANARY_PREFIX)} or doc_id >= {literal(_AFTER)})"
"""Milvus expression of all rows but those of canaries; `like` differs between servers."""
ONLY_CANARIES = f"(doc_id >= {literal(CANARY_PREFIX)} and doc_id < {literal(_AFTER)})"
"""Milvus expression of the rows of canaries."""


def except_canaries(expression: str) -> str:
    """The rows of an expression without those of canaries; an empty one: every row."""
    return f"({expression}) and {EXCEPT_CANARIES}" if expression else EXCEPT_CANARIES


def is_canary(doc_id: object) -> bool:
    """Whether a document is a canary, whatever worker published it."""
    return isinstance(doc_id, str) and doc_id.startswith(CANARY_PREFIX)


def without_canaries(hits: Sequence[Hit]) -> list[Hit]:
    """The hits of documents, in the same order."""
    return [hit for hit in hits if not is_canary(hit.fields.get("doc_id"))]
