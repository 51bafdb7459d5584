"""`milvus-stream embed`: the vectors of texts, as ingest or a search would get them."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TextIO

import numpy as np
import orjson
from numpy.typing import NDArray

from consumers.config import Settings
from consumers.wiring import documents
from pipeline.chunking import Chunker
from pipeline.embedding import Embedder

_GROUP_TEXTS = 256
"""Texts embedded at a time: enough for full batches, few enough that a long input is answered as it comes."""
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class TextVector:
    """The vector of one chunk of a text."""

    text: int
    """Which text of the input it is, from 0."""
    chunk: int
    chunks: int
    tokens: int
    """Of the chunk, without special tokens and prompt; of a query the whole text's, also what was cut off."""
    vector: NDArray[np.float32]

    def line(self) -> str:
        """For people: the vector's length and first components."""
        place = f"text {self.text}" if self.chunks == 1 else f"text {self.text}, chunk {self.chunk} of {self.chunks}"
        start = " ".join(f"{number:.4f}" for number in self.vector[:_SHOWN])
        more = " …" if len(self.vector) > _SHOWN else ""
        norm = float(np.linalg.norm(self.vector))
        return f"{place}: {self.tokens} tokens, {len(self.vector)} dimensions, norm {norm:.4f}: {start}{more}"

    def json_line(self) -> str:
        """For programs: every component, as many digits as float32 has."""
        value = {
            "text": self.text,
            "chunk": self.chunk,
            "chunks": self.chunks,
            "tokens": self.tokens,
            "dimension": len(self.vector),
            "norm": round(float(np.linalg.norm(self.vector)), 6),
            "vector": self.vector,
        }
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def expand(texts: Sequence[str], standard_input: TextIO) -> Iterator[str]:
    """The texts, with each `-` replaced by the lines of standard input."""
    for text in texts:
        if text == "-":
            yield from (line.removesuffix("\n") for line in standard_input)
        else:
            yield text


def run(settings: Settings, texts: Iterable[str], *, query: bool, whole: bool) -> int:
    """Print the vectors to stdout as they come; returns how many texts have none, each named on stderr."""
    failed = 0
    with documents.embedder(settings, queries_first=query) as model:
        for vector in vectors(settings, model, texts, query=query):
            if isinstance(vector, str):
                failed += 1
                sys.stderr.write(vector + "\n")
            else:
                sys.stdout.write((vector.json_line() if whole else vector.line()) + "\n")
    return failed


def vectors(settings: Settings, model: Embedder, texts: Iterable[str], *, query: bool) -> Iterator[TextVector | str]:
    """The vectors in the order of the texts; instead of one, what is wrong with that text."""
    chunker = documents.chunker(settings, model)
    numbered = enumerate(texts)
    while group := list(islice(numbered, _GROUP_TEXTS)):
        wanted = [(number, text) for number, text in group if text.strip()]
        groups = iter(_of_queries(model, wanted) if query else _of_documents(model, chunker, wanted))
        for number, text in group:
            if not text.strip():
                yield f"text {number} is blank: it has no vector"
                continue
            text_vectors = next(groups)
            if all(np.isfinite(chunk.vector).all() for chunk in text_vectors):
                yield from text_vectors
            else:
                yield f"text {number}: the model's vector of it has components that are no numbers"


def _of_queries(model: Embedder, numbered: Sequence[tuple[int, str]]) -> Iterator[list[TextVector]]:
    texts = [text for _, text in numbered]
    rows = zip(numbered, model.tokenizer.tokenize(texts), model.embed_queries(texts), strict=True)
    for (number, _), tokens, vector in rows:
        yield [TextVector(number, 0, 1, len(tokens.ids), vector)]


def _of_documents(model: Embedder, chunker: Chunker, numbered: Sequence[tuple[int, str]]) -> Iterator[list[TextVector]]:
    chunked = chunker.chunk([text for _, text in numbered])
    rows = iter(model.embed([chunk for chunks in chunked for chunk in chunks]))
    for (number, _), chunks in zip(numbered, chunked, strict=True):
        yield [TextVector(number, chunk.index, len(chunks), len(chunk.token_ids), next(rows)) for chunk in chunks]
