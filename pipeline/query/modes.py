"""The mode of a search, as request and collection allow it, and the retriever of each mode."""

from collections.abc import Callable

from pipeline.query.answer import Mode
from pipeline.query.fusion import DENSE, KEYWORD, Fusion
from pipeline.query.request.invalid_request import InvalidRequest
from pipeline.query.request.request import SearchRequest
from pipeline.query.retrievers import DenseRetriever, HybridRetriever, KeywordRetriever, Retriever
from pipeline.query.search_parameters import SearchParameters
from pipeline.records import SPARSE_FIELD
from pipeline.store import CollectionInfo, MilvusApi, ServerInfo

_NO_BM25 = "it was created on Milvus older than 2.5, or by another program; search by meaning (mode dense)"


def chosen_mode(request: SearchRequest, info: CollectionInfo, server: ServerInfo) -> Mode:
    """The mode of a request: by words only where the server fills a keyword index. Raises InvalidRequest elsewhere."""
    index = info.indexes.get(SPARSE_FIELD)
    if server.capabilities.bm25 and index is not None and index.metric == "BM25":
        return request.mode_wanted or "hybrid"
    if request.mode not in (None, "dense") or request.fusion is not None:
        at = "/mode" if request.mode is not None else "/fusion"
        raise InvalidRequest(at, f"needs a keyword index, which the collection {info.name} does not have: {_NO_BM25}")
    return "dense"


def chosen_retriever(
    mode: Mode,
    api: MilvusApi,
    fusion: Callable[[str], Fusion],
    parameters: SearchParameters,
    clock: Callable[[], float],
) -> Retriever:
    """The retriever of a mode. `fusion`: that of a text, in a hybrid search."""
    match mode:
        case "dense":
            return DenseRetriever(api, parameters)
        case "keyword":
            return KeywordRetriever(api)
        case "hybrid":
            legs = {DENSE: DenseRetriever(api, parameters), KEYWORD: KeywordRetriever(api)}
            return HybridRetriever(legs, fusion, clock)
