"""What the tools read beside searches, from the services of the query worker."""

from contextlib import ExitStack

from starlette.requests import Request
from typing_extensions import override

from consumers.query.access import note
from consumers.query.admission import Admission
from consumers.query.mcp.tools import DocumentSource, FetchedDocument
from consumers.query.searches import tenant_of
from pipeline.query import DocumentService


class StoredDocuments(DocumentSource):
    """Documents of the collection; a read takes a place as a search does."""

    def __init__(self, documents: DocumentService, admission: Admission) -> None:
        self._documents = documents
        self._admission = admission

    @override
    async def fetch(self, doc_id: str, tenant: str | None, request: Request | None) -> FetchedDocument:
        """Raises what `DocumentService.read` raises."""
        with ExitStack() as held:

            def admit() -> None:
                held.enter_context(self._admission.place())

            named = {"doc_id": doc_id, "tenant": tenant}
            found = await self._documents.read(named, admit=admit, tenant=tenant_of(request))
        if request is not None:
            note(request, results=1)
        return FetchedDocument(found.doc_id, found.readable, found.event_time, found.metadata, found.warnings)
