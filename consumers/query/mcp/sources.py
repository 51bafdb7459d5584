"""What the tools read beside searches, from the services of the query worker."""

from starlette.requests import Request
from typing_extensions import override

from consumers.query.access import note
from consumers.query.mcp.tools import DocumentSource, FetchedDocument
from consumers.query.searches import Searches
from pipeline.query import DocumentService


class StoredDocuments(DocumentSource):
    """Documents of the collection; a read takes a place as a search does."""

    def __init__(self, documents: DocumentService, searches: Searches) -> None:
        self._documents = documents
        self._searches = searches

    @override
    async def fetch(self, doc_id: str, tenant: str | None, request: Request | None) -> FetchedDocument:
        """Raises what `DocumentService.read` raises."""
        named = {"doc_id": doc_id, "tenant": tenant}
        with self._searches.admission.during() as admit:
            found = await self._documents.read(named, admit=admit, tenant=self._searches.tenant_of(request))
        if request is not None:
            note(request, results=1)
        return FetchedDocument(found.doc_id, found.readable, found.event_time, found.metadata, found.warnings)
