"""The method of a search: what the request wants, within what the collection and its server have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.query.answer import Mode
from pipeline.query.fusion import DENSE, ID, KEYWORD, Fusion
from pipeline.query.id_retriever import IdRetriever, IdsFirst
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.request.options import FusionOptions
from pipeline.query.request.request import SearchRequest
from pipeline.query.retrievers import DenseRetriever, HybridRetriever, KeywordRetriever, Retriever, has_keyword_index
from pipeline.query.search_parameters import SearchParameters
from pipeline.records import VECTOR_FIELD
from pipeline.store import CollectionInfo, IndexInfo, MilvusApi

_NO_BM25 = (
    "it was created on Milvus older than 2.5, with milvus.sparse: off, or by another program; search by meaning "
    "(mode dense)"
)


@dataclass(frozen=True, slots=True)
class SearchMethod:
    """How the rows of one request are found."""

    request: SearchRequest
    mode: Mode
    index: IndexInfo
    """Of the vectors."""
    parameters: SearchParameters
    fusion: Callable[[str], Fusion]
    """Of a text, in a hybrid search."""
    one_version: bool
    """Show only the newest version of a document (mode upsert); in append mode every record stays."""

    @property
    def hides_versions(self) -> bool:
        """Whether a newer version of a document may be hidden, so that the ledger must be read.

        The words of a query hide one that does not have them, and a least score one that is less similar, as a filter
        does.
        """
        hides = self.request.hides_rows or self.request.min_score is not None or self.mode != "dense"
        return self.one_version and hides

    def retriever(self, api: MilvusApi, clock: Callable[[], float]) -> Retriever:
        """What finds the candidates."""
        match self.mode:
            case "dense":
                return DenseRetriever(api, self.parameters)
            case "keyword":
                return IdsFirst(KeywordRetriever(api), IdRetriever(api), clock)
            case "hybrid":
                legs = {
                    DENSE: DenseRetriever(api, self.parameters),
                    KEYWORD: KeywordRetriever(api),
                    ID: IdRetriever(api),
                }
                return HybridRetriever(legs, self.fusion, clock)


def chosen_method(
    request: SearchRequest, info: CollectionInfo, api: MilvusApi, *, one_version: bool, configured: Mapping[str, Any]
) -> SearchMethod:
    """The method of a request; `configured`: parameters of searches by vectors.

    Raises InvalidRequest for a mode that the collection has no index for, for vectors of another dimension, and for a
    parameter that its type of index does not take.
    """
    mode = _mode(request, info, api)
    if request.vector is not None:
        dimensions = {declared.name: declared.dimension for declared in info.fields}
        request.vector.check_dimension(dimensions.get(VECTOR_FIELD))
    index = info.indexes[VECTOR_FIELD]
    parameters = SearchParameters(request.params or {}, configured)
    parameters.of(index, 1)
    fusion = (request.fusion or FusionOptions()).of
    return SearchMethod(request, mode, index, parameters, fusion, one_version)


def _mode(request: SearchRequest, info: CollectionInfo, api: MilvusApi) -> Mode:
    """By words only where the server fills a keyword index."""
    if has_keyword_index(api, info):
        return request.mode_wanted or "hybrid"
    if request.mode not in (None, "dense") or request.fusion is not None:
        at = "/mode" if request.mode is not None else "/fusion"
        raise InvalidRequest(at, f"needs a keyword index, which the collection {info.name} does not have: {_NO_BM25}")
    return "dense"
