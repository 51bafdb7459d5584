"""`config test`: what a worker with this configuration would make of records, without storing anything."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from consumers.cli.common.output import one_line, utc
from consumers.config import Settings
from consumers.kafka import newest
from consumers.wiring import documents
from consumers.wiring.collection import partitioning
from consumers.wiring.connections import kafka_settings
from pipeline.chunking import Chunker
from pipeline.errors import UsageError
from pipeline.records import Delete, Operation, Position, Put, Rejected, SourceRecord
from pipeline.store import Partitioning
from pipeline.telemetry import printable

_LINES = (".jsonl", ".ndjson")
"""Suffixes of files with a record a line; any other file is one record."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What becomes of one record."""

    record: str
    """Topic, Kafka partition and offset, or file and line."""
    operation: str
    """store | delete | reject."""
    id: str | None = None
    tenant: str | None = None
    version: int | None = None
    event_time: str | None = None
    partition: str | None = None
    """The Milvus partition."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    chunks: Sequence[str] = ()
    reason: str | None = None
    message: str | None = None

    def lines(self) -> Iterator[str]:
        """For people; what a record holds is shown on one line each and never interpreted."""
        if self.operation == "reject":
            yield f"{self.record}: rejected, {self.reason}: {one_line(self.message or '')}"
            return
        whose = "" if self.tenant is None else f" of tenant {one_line(self.tenant)}"
        version = "" if self.version is None else f", version {self.version}"
        what = "deletes" if self.operation == "delete" else "stores"
        yield f"{one_line(self.record)}: {what} {one_line(self.id or '')}{whose}{version}"
        if self.operation == "store":
            yield f"  {self.event_time}, Milvus partition {self.partition}, chunks: {len(self.chunks)}"
            if self.metadata:
                yield f"  metadata: {one_line(', '.join(f'{name}={value!r}' for name, value in self.metadata.items()))}"
            for number, text in enumerate(self.chunks):
                yield f"  [{number}] {one_line(text)}"

    def json_line(self) -> str:
        """For programs."""
        return printable(json.dumps(asdict(self), ensure_ascii=False))


def records_of_topic(settings: Settings, topic: str, last: int) -> Iterator[tuple[str, SourceRecord]]:
    """The last records of a topic, oldest first. Raises UsageError, Unavailable."""
    for record in reversed(newest(kafka_settings(settings), topic, last)):
        yield "/".join(map(str, record.position)), record


def records_of_file(path: Path, topic: str, key: str | None) -> Iterator[tuple[str, SourceRecord]]:
    """The records in a file, `-` for standard input: a line each where its name says JSON lines. Raises UsageError."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    values = [(f"{path}:{n}", line) for n, line in enumerate(content.splitlines(), 1) if line.strip()]
    if path.suffix not in _LINES:
        values = [(str(path), content)]
    now_ms, encoded = time.time_ns() // 1_000_000, None if key is None else key.encode()
    for number, (place, value) in enumerate(values):
        yield place, SourceRecord(Position(topic, 0, number), now_ms, encoded, value)


def run(settings: Settings, records: Iterable[tuple[str, SourceRecord]], *, json_: bool) -> bool:
    """Print what becomes of each record; returns whether none is rejected."""
    decoder, places = documents.decoder(settings), partitioning(settings)
    accepted = True
    with documents.embedder(settings, queries_first=True) as model:
        chunker = documents.chunker(settings, model)
        for place, record in records:
            operation = decoder.decode(record, time.time_ns() // 1_000_000)
            trial = tried(place, operation, chunker, places)
            accepted = accepted and trial.operation != "reject"
            sys.stdout.writelines(f"{line}\n" for line in ([trial.json_line()] if json_ else trial.lines()))
    return accepted


def tried(place: str, operation: Operation, chunker: Chunker, places: Partitioning) -> Trial:
    """What becomes of a record that was decoded to this operation."""
    match operation:
        case Rejected():
            return Trial(place, "reject", reason=operation.reason, message=operation.message)
        case Delete():
            return Trial(place, "delete", operation.doc_id, operation.tenant, operation.version)
        case Put(document=document):
            try:
                partition = places.place(document.event_time, operation.timestamp_ms)
            except ValueError as error:
                return Trial(place, "reject", document.doc_id, reason="not_storable", message=str(error))
            (chunks,) = chunker.chunk([document.text])
            return Trial(
                place,
                "store",
                document.doc_id,
                document.tenant,
                operation.version,
                utc(document.event_time),
                partition,
                document.metadata,
                [chunk.text for chunk in chunks],
            )
