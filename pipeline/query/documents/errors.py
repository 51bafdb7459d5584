"""The errors of a read of one document; their messages are for whoever sent the request."""

from typing import Literal

from pipeline.errors import MilvusStreamError, Unavailable


class NoSuchDocument(MilvusStreamError):
    """Nothing is stored under the id; the message says what is known of it."""

    def __init__(self, message: str, deleted_at: str | None = None) -> None:
        """`deleted_at`: RFC 3339, where a tombstone of it is stored."""
        super().__init__(message)
        self.deleted_at = deleted_at


class DocumentUnreadable(Unavailable):
    """The document is stored and cannot be read now: it is being changed, or its Milvus partition is not loaded."""

    def __init__(self, why: Literal["changing", "not-loaded"], message: str) -> None:
        super().__init__(message)
        self.why = why


class NoLedger(MilvusStreamError):
    """The collection has no ledger: another program made it, or somebody has dropped the ledger."""
