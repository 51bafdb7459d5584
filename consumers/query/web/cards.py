"""Results as cards: a heading, an excerpt around the words that matched, facts. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from consumers.query.web.ports import Marks
from pipeline.query import SearchAnswer

_HEADINGS = ("title", "name", "subject", "headline")
_LINKS = ("url", "link", "source_url")
_EXCERPT = 450
"""Characters of a chunk that a card shows at first."""
_BEFORE = 120
"""Of them before the first mark."""
_LONGEST_HEADING = 160
_SCORE_WIDTH = 100
_MOST_METADATA = 40


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text."""

    text: str
    marked: bool


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its bar."""

    name: str
    value: float
    width: float
    """Of 100."""


@dataclass(frozen=True, slots=True)
class Card:
    """One result."""

    rank: int
    doc_id: str
    heading: str
    link: str
    """Where the document is on the web: http or https; empty: nowhere."""
    excerpt: Sequence[Piece]
    cut_before: bool
    cut_after: bool
    whole: Sequence[Piece]
    """The chunk, where the excerpt is not all of it; else empty."""
    chunk: int
    event_time: str
    partition: str | None
    source: str
    metadata: Mapping[str, Any]
    further_metadata: int
    """Names that are not in `metadata`."""
    scores: Sequence[Score]


def cards(answer: SearchAnswer, query: str, first: int, most: int, marks: Marks | None) -> list[Card]:
    """The results from number `first` (0 is the best) on, at most `most`."""
    top = max((abs(result.score) for result in answer.results), default=0.0)
    made = []
    for rank, result in enumerate(answer.results[first : first + most], first + 1):
        spans = tuple(marks(query, result.text)) if marks is not None and query else ()
        begin, end = _window(len(result.text), spans)
        names = [name for name in _HEADINGS if isinstance(result.metadata.get(name), str) and result.metadata[name]]
        heading = str(result.metadata[names[0]]) if names else result.doc_id
        scores = [("score", result.score), *sorted(result.scores.items())]
        made.append(
            Card(
                rank=rank,
                doc_id=result.doc_id,
                heading=heading if len(heading) <= _LONGEST_HEADING else heading[:_LONGEST_HEADING] + "…",
                link=_link(result.metadata),
                excerpt=_pieces(result.text, spans, begin, end),
                cut_before=begin > 0,
                cut_after=end < len(result.text),
                whole=_pieces(result.text, spans, 0, len(result.text)) if end - begin < len(result.text) else (),
                chunk=result.chunk,
                event_time=result.event_time,
                partition=result.partition,
                source=f"{result.source.topic}/{result.source.partition} @ {result.source.offset}",
                metadata=dict(islice(_others(result.metadata, names[:1]), _MOST_METADATA)),
                further_metadata=max(0, len(result.metadata) - len(names[:1]) - _MOST_METADATA),
                scores=[Score(name, value, _width(name, value, top)) for name, value in scores],
            )
        )
    return made


def _others(metadata: Mapping[str, Any], shown: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The metadata that is no heading, by name."""
    return ((name, value) for name, value in sorted(metadata.items()) if name not in shown)


def _window(size: int, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Where the excerpt of a text of this size begins and ends."""
    if size <= _EXCERPT:
        return 0, size
    begin = min(max(0, spans[0][0] - _BEFORE), size - _EXCERPT) if spans else 0
    return begin, begin + _EXCERPT


def _pieces(text: str, spans: Sequence[tuple[int, int]], begin: int, end: int) -> list[Piece]:
    """The text from `begin` to `end`, cut at the marks; ranges that do not fit the text are left out."""
    pieces = []
    at = begin
    for start, stop in spans:
        start, stop = max(start, at), min(stop, end)  # noqa: PLW2901 - cut to the window
        if start >= stop:
            continue
        pieces += [Piece(text[at:start], marked=False), Piece(text[start:stop], marked=True)]
        at = stop
    return [piece for piece in (*pieces, Piece(text[at:end], marked=False)) if piece.text]


def _width(name: str, value: float, top: float) -> float:
    """BM25 scores have no bound, so the best result is the measure; the others end at 1."""
    measure = max(top, 1.0) if name == "score" else max(1.0, abs(value))
    return round(min(1.0, abs(value) / measure) * _SCORE_WIDTH, 1)


def _link(metadata: Mapping[str, Any]) -> str:
    """An address that a browser opens as a web page: a record can name javascript: as well."""
    for name in _LINKS:
        value = metadata.get(name)
        if isinstance(value, str) and _is_web(value):
            return value
    return ""


def _is_web(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)
