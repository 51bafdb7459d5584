"""The documents that every contender gets: the standard library's documentation, counted in the model's tokens.

Run as a command it loads the model once and writes them, so that the benchmark itself needs no model.
"""

import builtins
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from consumers.local import stdlib_documents

SPREAD = timedelta(days=7)
MARKERS = 400
"""Short documents set apart for the freshness part, with their vectors."""
_NAIVE_MAX_BYTES = 60_000
"""The naive loop stores a text in one field, which holds no more."""


@dataclass(frozen=True, slots=True)
class BenchDocument:
    """A document and what it costs."""

    id: str
    text: str
    tokens: int
    """Of the whole text, without special tokens."""
    chunks: int
    embedded: int
    """Tokens of all chunks: those in an overlap count twice, as the model reads them twice."""


def read_documents(path: str | Path) -> list[BenchDocument]:
    """The documents in the file, in its order."""
    return [BenchDocument(**json.loads(line)) for line in Path(path).read_text().splitlines()]


def value(document: BenchDocument, event_time: datetime, suffix: str = "") -> bytes:
    """The record of a document."""
    record = {"id": document.id + suffix, "text": document.text, "event_time": event_time.isoformat()}
    return json.dumps(record).encode()


def longer(documents: Sequence[BenchDocument], times: int) -> list[BenchDocument]:
    """The documents, and so many times as many of the same lengths: in each further one other words stand for "the".

    None of their chunks has the text of another, for the worker embeds a text that comes twice only once.
    """
    words = ("the", "that", "this", "each", "some", "any")[:times]
    return [
        replace(document, id=f"{document.id}#{word}" if copy else document.id, text=_reworded(document.text, word))
        for copy, word in enumerate(words)
        for document in documents
    ]


def _reworded(text: str, word: str) -> str:
    other = text.replace(" the ", f" {word} ")
    return other if other != text or word == "the" else f"{text} {word}"


def spread(documents: Sequence[BenchDocument], now: datetime) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each, event times spread evenly over the days before `now` in a shuffled order."""
    ages = [SPREAD * (index + 1) / (len(documents) + 1) for index in range(len(documents))]
    random.Random(7).shuffle(ages)
    for document, age in zip(documents, ages, strict=True):
        yield document.id.encode(), value(document, now - age)


def small_records(count: int, size: int = 300, *, days_ago: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of records of `size` bytes: a stream of log lines or titles. The same every time."""
    day = (datetime.now(UTC) - timedelta(days=days_ago)).replace(hour=0, minute=0, second=0, microsecond=0).isoformat()
    words = [name.lower() for name in dir(builtins)]
    rng = random.Random(3)
    for number in range(count):
        record = {"id": f"r{number:07}", "event_time": day, "source": f"s{number % 50:02}", "text": ""}
        room = size - len(json.dumps(record))
        text = " ".join(rng.choices(words, k=60))[:room]
        yield record["id"].encode(), json.dumps({**record, "text": text.ljust(room, ".")}).encode()


def prepare(settings: Mapping[str, Any], documents: Path, markers: Path) -> dict[str, Any]:
    """Write the documents, then the markers' vectors in their order; returns what the model is."""
    from consumers.config import Settings
    from consumers.wiring.documents import embedder, embedding_settings
    from pipeline.chunking import Chunker, ChunkingPolicy
    from pipeline.embedding import find_model, prepared_model

    parsed = Settings.model_validate(settings)
    with embedder(parsed) as model:
        chunker = Chunker(model.tokenizer, ChunkingPolicy(parsed.chunking.max_tokens, parsed.chunking.overlap))
        found = [item for item in stdlib_documents() if len(item.text.encode()) < _NAIVE_MAX_BYTES]
        chunked = chunker.chunk([item.text for item in found])
        counted = model.tokenizer.tokenize([item.text for item in found])
        rows = [
            BenchDocument(item.id, item.text, len(tokens.ids), len(chunks), sum(len(c.token_ids) for c in chunks))
            for item, tokens, chunks in zip(found, counted, chunked, strict=True)
        ]
        documents.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        short = [chunks[0] for chunks in chunked if len(chunks) == 1][-MARKERS:]
        np.save(markers, model.embed(short))
        return {
            "name": model.stamp.name,
            "dtype": model.dtype,
            "device": model.device,
            "dimension": model.stamp.dimension,
            "max_tokens": model.tokenizer.max_tokens,
            "folder": str(find_model(parsed.embedding.model)),
            "prepared": str(prepared_model(embedding_settings(parsed)).folder) if model.engine == "openvino" else "",
        }


if __name__ == "__main__":
    from pipeline.telemetry import configure_logging

    configure_logging("warning", "json")
    given = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps(prepare(given["settings"], Path(given["documents"]), Path(given["markers"]))) + "\n")
