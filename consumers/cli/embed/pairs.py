"""Labelled pairs: queries, and the texts that answer them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from consumers.local import stdlib_documents
from pipeline.errors import UsageError

_DOCUMENTATION_PAIRS = 1000
_MIN_QUERY_CHARACTERS, _MIN_TEXT_CHARACTERS = 20, 80


@dataclass(frozen=True, slots=True)
class LabelledPairs:
    """Distinct queries and texts."""

    source: str
    queries: list[str]
    texts: list[str]
    relevant: list[set[int]]
    """Of each query, the indices of its texts."""


def read_pairs(file: Path) -> LabelledPairs:
    """The pairs of a file: `{"query": …, "text": …}` a line, blank lines left out.

    Raises UsageError, with the number of the line, where the file cannot be used.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    pairs = [_pair(line, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    return _labelled(str(file), pairs)


def documentation_pairs() -> LabelledPairs:
    """The first line of texts of Python's documentation as queries, each with the rest of its text."""
    return _labelled("the documentation of Python", islice(_first_lines(), _DOCUMENTATION_PAIRS))


def _first_lines() -> Iterator[tuple[str, str]]:
    for document in stdlib_documents():
        first, _, rest = document.text.partition("\n")
        if len(first) >= _MIN_QUERY_CHARACTERS and len(rest.strip()) >= _MIN_TEXT_CHARACTERS:
            yield first.strip(), rest.strip()


def _pair(line: bytes, place: str) -> tuple[str, str]:
    try:
        value: Any = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: not a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f'{place}: not a JSON object: write {{"query": …, "text": …}}')
    for name in ("query", "text"):
        if name not in value:
            raise UsageError(f'{place}: "{name}" is missing')
        if not isinstance(value[name], str) or not value[name].strip():
            raise UsageError(f'{place}: "{name}" must be a text that is not blank')
    return value["query"], value["text"]


def _labelled(source: str, pairs: Iterable[tuple[str, str]]) -> LabelledPairs:
    queries: dict[str, set[int]] = {}
    texts: dict[str, int] = {}
    for query, text in pairs:
        queries.setdefault(query, set()).add(texts.setdefault(text, len(texts)))
    return LabelledPairs(source, list(queries), list(texts), list(queries.values()))
