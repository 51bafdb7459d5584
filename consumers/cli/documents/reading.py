"""The documents of the configured collection, read without a query worker and answered as it answers."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.config import Settings
from consumers.wiring import connections
from consumers.wiring.searches import search_service, searcher
from consumers.wiring.start_checks import check_search
from pipeline.errors import UsageError
from pipeline.query import DocumentService, InvalidRequest
from pipeline.telemetry import QueryMetrics

_TIMEOUT_MS = 30_000


class LocalDocuments:
    """Reads of single documents; each raises UsageError, NoSuchDocument, Unavailable, Mismatch. Loads no model."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def document(self, doc_id: str, tenant: str | None) -> dict[str, Any]:
        """A document as it is stored now."""
        with _service(self._settings) as service:
            return asdict(asyncio.run(service.read(_request(doc_id, tenant))))

    def history(self, doc_id: str, tenant: str | None) -> dict[str, Any]:
        """Where a document is, and which records it came from."""
        with _service(self._settings) as service:
            return asdict(asyncio.run(service.history(_request(doc_id, tenant))))

    def similar(self, doc_id: str, tenant: str | None, limit: int) -> dict[str, Any]:
        """Documents similar to a stored one, as the answer of a search."""
        body = {**_request(doc_id, tenant), "limit": limit}
        with _service(self._settings) as service:
            return asdict(asyncio.run(service.similar(body)))


@contextmanager
def _service(settings: Settings) -> Iterator[DocumentService]:
    with connections.milvus(settings) as api:
        check_search(settings, api)
        with closing(
            search_service(settings, searcher(settings, api, None), None, QueryMetrics(CollectorRegistry()))
        ) as service:
            try:
                yield DocumentService(service)
            except InvalidRequest as error:
                raise UsageError(f"documents {error}") from None


def _request(doc_id: str, tenant: str | None) -> dict[str, Any]:
    request: dict[str, Any] = {"doc_id": doc_id, "timeout_ms": _TIMEOUT_MS}
    return request if tenant is None else {**request, "tenant": tenant}
