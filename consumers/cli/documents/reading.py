"""The work of `documents …`: the answers of the query worker, read without one, and how they are printed."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.cli.common.output import one_line, stderr, stdout, table
from consumers.config import Settings
from consumers.wiring import connections
from consumers.wiring.searches import search_service, searcher
from consumers.wiring.start_checks import check_search
from pipeline.errors import UsageError
from pipeline.query import DocumentService, InvalidRequest
from pipeline.telemetry import QueryMetrics, printable

_TIMEOUT_MS = 30_000


def document(settings: Settings, doc_id: str, tenant: str | None) -> dict[str, Any]:
    """The document as plain values. Raises UsageError, NoSuchDocument, Unavailable, Mismatch."""
    with _service(settings) as service:
        return asdict(asyncio.run(service.read(_request(doc_id, tenant))))


def history(settings: Settings, doc_id: str, tenant: str | None) -> dict[str, Any]:
    """Its history, as `document`."""
    with _service(settings) as service:
        return asdict(asyncio.run(service.history(_request(doc_id, tenant))))


def similar(settings: Settings, doc_id: str, tenant: str | None, limit: int) -> dict[str, Any]:
    """Documents similar to it, as the answer of a search."""
    body = {**_request(doc_id, tenant), "limit": limit}
    with _service(settings) as service:
        return asdict(asyncio.run(service.similar(body)))


def show_document(document: Mapping[str, Any]) -> None:
    """Print what is known of a document, then its text as it is, without control characters."""
    source = document["source"]
    facts = [
        ("document", document["doc_id"]),
        ("tenant", document["tenant"]),
        ("event time", document["event_time"]),
        ("version", document["version"]),
        ("Milvus partition", document["partition"]),
        ("record", _place(source)),
        ("chunks", len(document["chunks"])),
        *((f"metadata {name}", value) for name, value in document["metadata"].items()),
    ]
    _show_facts(facts)
    console = stdout()
    text = document["text"]
    for part in [text] if text is not None else [chunk["text"] for chunk in document["chunks"]]:
        console.print("")
        console.print(printable(part, keep="\n\t"))
    for earlier in document["earlier"]:
        console.print(f"\nearlier: {_place(earlier['source'])}, {earlier['event_time']}")
    notes = list(document["warnings"])
    if document["pending"]:
        notes.insert(0, "a change of the document is under way; this is the version before it")
    if text is not None and not document["text_exact"]:
        notes.append("the text is joined from chunks and not proven to be the original; --json has the chunks")
    _warn(notes)


def show_history(found: Mapping[str, Any]) -> None:
    """Print the ledger's entry, and a table of the rows."""
    ledger = found["ledger"]
    if ledger is not None:
        record = ledger["record"]
        _show_facts(
            [
                ("document", found["doc_id"]),
                ("tenant", found["tenant"]),
                ("state", ledger["state"] + (", a change is pending" if ledger["pending"] else "")),
                ("deleted", ledger["deleted_at"]),
                ("version", ledger["version"]),
                ("newest record", record and f"{_place(record)}, {record['timestamp'] or 'no timestamp'}"),
                ("rows written by", ledger["written_by"] and _place(ledger["written_by"])),
                ("model and chunking", ledger["fingerprint"]),
            ]
        )
    rows = [
        (
            partition["name"],
            partition["state"],
            partition["expected"],
            partition["rows"],
            ", ".join(_place(written["source"]) for written in partition["sources"]),
        )
        for partition in found["partitions"]
    ]
    stdout().print(table(("Milvus partition", "state", "expected", "rows", "written by"), rows))
    _warn(found["warnings"])


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


def _place(source: Mapping[str, Any]) -> str:
    return f"{source['topic']}/{source['partition']}/{source['offset']}"


def _show_facts(facts: Sequence[tuple[str, object]]) -> None:
    console = stdout()
    for name, value in facts:
        if value is not None:
            console.print(f"{one_line(name):<20}{one_line(str(value))}")


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        stderr().print(one_line(f"warning: {note}"))
