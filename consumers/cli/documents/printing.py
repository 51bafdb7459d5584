"""How `documents …` prints a document and its history. The content of documents is shown and never interpreted."""

from collections.abc import Mapping, Sequence
from typing import Any

from consumers.cli.common.output import one_line, stderr, stdout, table
from pipeline.telemetry import printable


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
        console.print("")
        console.print(one_line(f"earlier: {_place(earlier['source'])}, {earlier['event_time']}"))
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
