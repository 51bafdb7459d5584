"""A LangChain retriever over the query worker: its searches, with time ranges, freshness and the tenant of the key.

It needs langchain-core (the extra langchain) and httpx. The file can be copied: it imports nothing else of the project.
"""

from typing import Any

import httpx
from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, SecretStr

_OURS = ("doc_id", "score", "scores", "event_time", "chunk", "partition", "source")


class SearchFailed(RuntimeError):
    """The query worker refused a search or could not answer it; the message has its title and detail."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class MilvusStreamRetriever(BaseRetriever):
    """Documents from POST /v1/search of a query worker, newest versions only.

    A document's metadata is that of its record; what the search says of it is under `_search`: score, event_time,
    doc_id, source, and of the whole answer mode, partial, warnings and freshness.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    url: str
    """Of the query worker: http://localhost:8080."""
    api_key: SecretStr | None = None
    """The key; it also decides whose documents are searched, where the query worker knows tenants."""
    limit: int = 4
    """Most documents."""
    time: dict[str, str] | None = None
    """{"last": "24h"}, or {"from": ..., "to": ...}."""
    filter: dict[str, Any] | None = None
    """Conditions on metadata, as in docs/search-api.md."""
    freshness: dict[str, Any] | None = None
    """What the answer must contain already, where the query worker supports it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further keys of the request: mode, fields, min_score, recency, group_by, timeout_ms."""
    timeout_s: float = 30.0
    """For the whole request."""

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        with httpx.Client(timeout=self.timeout_s) as client:
            return _documents(client.post(self._url(), json=self._body(query), headers=self._headers()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        async with httpx.AsyncClient(timeout=self.timeout_s) as client:
            return _documents(await client.post(self._url(), json=self._body(query), headers=self._headers()))

    def _url(self) -> str:
        return f"{self.url.rstrip('/')}/v1/search"

    def _body(self, query: str) -> dict[str, Any]:
        ours = {"time": self.time, "filter": self.filter, "freshness": self.freshness}
        given = {name: value for name, value in ours.items() if value is not None}
        return {**self.options, **given, "query": query, "limit": self.limit}

    def _headers(self) -> dict[str, str]:
        return {} if self.api_key is None else {"authorization": f"Bearer {self.api_key.get_secret_value()}"}


def _documents(response: httpx.Response) -> list[Document]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        answer = {}
    if response.status_code != 200 or "results" not in answer:
        title = answer.get("title", "this is no answer of a query worker")
        raise SearchFailed(response.status_code, f"{title}: {answer.get('detail', '')}".rstrip(": "))
    whole = {name: answer[name] for name in ("mode", "partial", "warnings", "freshness") if name in answer}
    return [
        Document(
            id=result["doc_id"],
            page_content=result["text"],
            metadata={**result["metadata"], "_search": {**{name: result[name] for name in _OURS}, **whole}},
        )
        for result in answer["results"]
    ]
