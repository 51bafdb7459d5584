"""What to show of a text that a query found: the places of its terms, and the sentence that fits best. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import log
from typing import TypeAlias

from pipeline.chunking import pieces, sentence_starts
from pipeline.query.terms import Occurrence, Terms

MAX_HIGHLIGHTS = 1_000
"""Most highlights of a text; those of the passage are among them."""
MAX_PASSAGE_CHARS = 400
"""A longer sentence is cut, at white space where there is some."""

Span: TypeAlias = tuple[int, int]
"""Offsets [start, end) in a text, in code points."""


def mark(text: str, terms: Terms) -> tuple[tuple[Span, ...], Span]:
    """(the highlights in order, which do not overlap; the passage). Linear in the text's length."""
    occurrences = list(terms.occurrences(text))
    passage = best_passage(text, occurrences)
    return _bounded(_merged(occurrences), passage), passage


def best_passage(text: str, occurrences: Sequence[Occurrence]) -> Span:
    """The sentence with the rarest terms; of several, and where none has a term, the first.

    A term weighs log(1 + n / m) if m of the text's n sentences have it, so that words like "the" decide nothing.
    """
    spans = list(sentences(text))
    if not spans:
        return (0, 0)
    found: defaultdict[int, set[str]] = defaultdict(set)
    at = 0
    for start, _, term in occurrences:
        while start >= spans[at][1]:
            at += 1
        found[at].add(term)
    sentences_with = Counter(term for terms in found.values() for term in terms)
    weights = {term: log(1 + len(spans) / count) for term, count in sentences_with.items()}
    # Sorted: a sum of floats depends on the order, and that of a set on the process.
    scores = {number: sum(sorted(weights[term] for term in terms)) for number, terms in found.items()}
    return spans[max(scores, key=lambda number: scores[number], default=0)]


def sentences(text: str) -> Iterator[Span]:
    """The sentences of a text without the white space around them; long ones in parts of `MAX_PASSAGE_CHARS`."""
    starts = sentence_starts(text).tolist()
    bounds = zip([0, *(start for _, start in starts)], [*(end for end, _ in starts), len(text)], strict=True)
    for first, last in bounds:
        sentence = text[first:last]
        for start, end in pieces(sentence, MAX_PASSAGE_CHARS):
            part = sentence[start:end]
            if stripped := part.strip():
                begin = first + start + len(part) - len(part.lstrip())
                yield begin, begin + len(stripped)


def _merged(occurrences: Sequence[Occurrence]) -> list[Span]:
    """Overlapping occurrences, as of pairs of characters, as one span."""
    spans: list[Span] = []
    for start, end, _ in occurrences:
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans


def _bounded(spans: Sequence[Span], passage: Span) -> tuple[Span, ...]:
    """The highlights of the passage, and as many of the first others as there may be."""
    if len(spans) <= MAX_HIGHLIGHTS:
        return tuple(spans)
    inside = [span for span in spans if passage[0] <= span[0] < passage[1]]
    outside = [span for span in spans if not passage[0] <= span[0] < passage[1]]
    return tuple(sorted([*inside, *outside[: MAX_HIGHLIGHTS - len(inside)]]))
