"""The configured reranker: a model on this machine or an endpoint, behind a bounded number of searches."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

from consumers.config import Settings
from consumers.query.rerank_endpoint import RerankEndpoint
from consumers.wiring.documents import embedding_settings
from pipeline.embedding import load_cross_encoder
from pipeline.query import ModelReranker, Reranker, Reranking


@contextmanager
def reranking(settings: Settings, *, wanted: bool = True) -> Iterator[Reranking | None]:
    """The reranking of searches; None where it is not configured, or not `wanted`. Takes minutes at the first start.

    Raises UsageError for a model that is not on this machine or cannot be run.
    """
    section = settings.query.rerank
    reranker: Reranker
    if section.url is not None and wanted:
        key = None if section.key is None else section.key.get_secret_value()
        reranker = RerankEndpoint(section.url, section.shape, model=section.model, key=key)
    elif section.model is not None and wanted:
        reranker = ModelReranker(load_cross_encoder(section.model, embedding_settings(settings)))
    else:
        yield None
        return
    # Half of the threads that search, at most, so that searches without reranking find one.
    most = max(1, settings.query.concurrency // 2)
    with closing(reranker):
        yield Reranking(reranker, default=section.default, max_waiting=most)
