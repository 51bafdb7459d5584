"""The page of one whole document."""

from starlette.requests import Request
from starlette.responses import Response

from consumers.query.access import Caller, note
from consumers.query.admission import Admission
from consumers.query.web.form import SearchForm
from consumers.query.web.parts import PageParts
from consumers.query.web.ports import Documents
from consumers.query.web.render import html


class DocumentPage:
    """Answers `/document?id=…`; a document takes a place as a search does."""

    def __init__(self, parts: PageParts, documents: Documents, admission: Admission) -> None:
        self._parts = parts
        self._documents = documents
        self._admission = admission

    async def answer(self, request: Request, caller: Caller) -> Response:
        """The page for the id in the address."""
        frame = self._parts.frame(caller, "/document")
        if not (doc_id := request.query_params.get("id", "")):
            return html("message.html", 404, **frame, title="No such document", detail="The address names no id.")
        self._admission.admit(request)
        document = await self._documents.document(doc_id, tenant=caller.tenant)
        if document is None:
            detail = "It has no stored version now; it may have been deleted."
            return html("message.html", 404, **frame, title="No such document", detail=detail)
        note(request, results=1)
        similar = SearchForm(similar=doc_id).address() if self._parts.similar is not None else ""
        return html("document.html", **frame, document=document, similar=similar)
