"""Documents written by the real writers, with chunks that overlap, and a reader of them."""

from collections.abc import Sequence
from typing import Any

from pipeline.errors import Unavailable
from pipeline.query import DocumentReader, Searcher, SearchSettings
from pipeline.records import Delete, EmbeddedPut, Put
from pipeline.store import DEFAULT_PARTITION, entry_row, ledger_name
from tests.support.documents import cut
from tests.support.stores import Store

SIZE, OVERLAP = 12, 4


class Documents:
    """One collection in upsert or append mode."""

    def __init__(self, store: Store, *, append: bool = False, settings: SearchSettings | None = None) -> None:
        self.store = store
        self.append = append
        self.searcher = Searcher(store.api, store.name, settings, one_version=lambda _: not append)  # type: ignore[arg-type]
        self.pauses: list[float] = []
        self.reader = DocumentReader(self.searcher, sleep=self.pauses.append)

    def write(self, *operations: Put | Delete, fingerprint: str = "model") -> None:
        """Write each in a batch of its own."""
        for operation in operations:
            writer = self.store.append_writer() if self.append else self.store.upsert_writer(fingerprint=fingerprint)
            plan = writer.plan([operation])
            writer.apply(plan, [chunked(put) for put in plan.to_embed])
        self.searcher.forget()

    def interrupt(self, operation: Put | Delete, *, after_upserts: int) -> None:
        """Write as a worker does that is killed after so many upserts of rows and ledger rows."""
        api: Any = self.store.api
        left = after_upserts

        def hook(what: str, collection: str, when: str) -> None:
            nonlocal left
            if what in ("upsert", "delete") and when == "before":
                if left == 0:
                    raise Unavailable("killed")
                left -= 1

        api.hook = hook
        try:
            self.write(operation)
        except Unavailable:
            pass
        else:
            raise AssertionError("the worker was not killed")
        finally:
            api.hook = None
        self.searcher.forget()

    def enter(self, doc_id: str, **changes: Any) -> None:
        """Change the ledger's entry of a document."""
        entry = self.store.ledger()[doc_id]._replace(**changes)
        self.store.api.upsert(ledger_name(self.store.name), DEFAULT_PARTITION, [entry_row(entry)])

    def lose(self, doc_id: str, chunks: Sequence[int]) -> None:
        """Remove rows of a document behind the ledger's back."""
        for partition in self.store.api.partitions(self.store.name):
            rows = self.store.api.query(
                self.store.name, "chunk >= 0", ["id", "doc_id", "chunk"], partitions=[partition], strong=True
            )
            ids = [row["id"] for row in rows if row["doc_id"] == doc_id and row["chunk"] in chunks]
            self.store.api.delete(self.store.name, partition, ids)


def chunked(put: Put) -> EmbeddedPut:
    """The document with overlapping chunks."""
    return cut(put, SIZE, OVERLAP)
