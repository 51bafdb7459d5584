"""Requests about one document: which one, and the search for documents similar to it."""

from functools import cache
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.query.request.body import parse_body
from pipeline.query.request.filters import StrictModel
from pipeline.query.request.request import (
    DEFAULT_TIMEOUT_MS,
    MAX_RESULTS,
    MAX_TIMEOUT_MS,
    MIN_TIMEOUT_MS,
    ResultOptions,
    SearchRequest,
    bounded,
)
from pipeline.query.request.value_types import Between
from pipeline.records import MAX_DOC_ID_BYTES

_MAX_ROW_ID = 64


def _check_bytes(value: str) -> str:
    if len(value.encode()) > MAX_DOC_ID_BYTES:
        message = "has more than {most} bytes in UTF-8, so no document has it"
        raise PydanticCustomError("too_many_bytes", message, {"most": f"{MAX_DOC_ID_BYTES:,}"})
    return value


_Name = Annotated[str, Field(min_length=1, max_length=MAX_DOC_ID_BYTES), AfterValidator(_check_bytes)]


class DocumentRequest(StrictModel):
    """A read of one document."""

    doc_id: _Name
    """The id of the document, as its record gave it."""
    tenant: _Name | None = None
    """Whose document; needed only where several tenants have one of this id."""
    timeout_ms: Annotated[int, Between(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS)] = DEFAULT_TIMEOUT_MS
    """Most milliseconds from the arrival of the request to its answer."""


class Likeness(StrictModel):
    """What to find similar documents of."""

    doc_id: _Name | None = None
    """A document; it is compared by the mean of the vectors of its chunks."""
    chunk_id: Annotated[str, Field(min_length=1, max_length=_MAX_ROW_ID)] | None = None
    """One chunk, by the `id` of a result."""
    tenant: _Name | None = None
    """Whose document; needed only where several tenants have one of this id. Results are of all tenants."""


class SimilarRequest(ResultOptions, Likeness):
    """A search for the documents that are similar in meaning to one that is stored, which is left out."""

    @model_validator(mode="after")
    def _check_likeness(self) -> "SimilarRequest":
        if (self.doc_id is None) == (self.chunk_id is None):
            raise PydanticCustomError("likeness", "takes either doc_id or chunk_id, and needs one of them")
        return self

    @property
    def search(self) -> SearchRequest:
        """The request as a search by vectors takes it; its options are checked already."""
        options = {name: getattr(self, name) for name in ResultOptions.model_fields}
        return SearchRequest.model_construct(query="", mode="dense", **options)


@cache
def similar_model(most: int) -> type[SimilarRequest]:
    """The model of the requests to a service that gives at most `most` results."""
    return bounded(SimilarRequest, most)


def parse_similar(body: object, max_results: int = MAX_RESULTS) -> SimilarRequest:
    """Check a decoded JSON body. Raises InvalidRequest."""
    return parse_body(similar_model(max_results), body)


def parse_document_request(values: object) -> DocumentRequest:
    """Check the parts of an address. Raises InvalidRequest."""
    return parse_body(DocumentRequest, values)
