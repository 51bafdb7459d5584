"""Queries whose right document is known: sentences, codes and names of real texts."""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

KINDS = ("sentence", "code", "name")
_WORD = re.compile(r"[\w.:/@#+-]*\w")
_CODE = re.compile(r"[a-z]+[_.-][a-z_.-]*[a-z]|[A-Za-z]+\d+[A-Za-z\d]*|\d+\.\d+[\d.]*|__\w+__|[A-Z]{2,}\d*")
_NAME = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)*")
_SENTENCE_CHARACTERS, _REST_CHARACTERS = 20, 80
_SEED = 7


@dataclass(frozen=True, slots=True)
class Query:
    """A query, its kind, and the number of the text that answers it."""

    text: str
    kind: str
    answer: int


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts and the queries about them."""

    texts: Sequence[str]
    queries: Sequence[Query]


def label(texts: Sequence[str], each: int) -> LabelledTexts:
    """At most `each` queries of a kind, none twice; the same in every run.

    A sentence is the first line of a text, which is stored without it. A code or a name is a word that only one text
    has, in any case of its letters: an identifier, a version, an abbreviation, or a capitalized word inside a sentence.
    """
    drawn = random.Random(_SEED)
    stored: list[str] = []
    sentences: dict[str, int] = {}
    for text in texts:
        first, _, rest = text.partition("\n")
        if len(first) >= _SENTENCE_CHARACTERS and len(rest.strip()) >= _REST_CHARACTERS and first not in sentences:
            sentences[first.strip()] = len(stored)
            stored.append(rest.strip())
        else:
            stored.append(text)
    queries = [Query(first, "sentence", answer) for first, answer in sentences.items()]
    words = [_WORD.findall(text) for text in stored]
    texts_with = Counter(word for found in words for word in {each.lower() for each in found})
    for kind, belongs in (("code", _CODE.fullmatch), ("name", _is_name)):
        queries += _rare(kind, belongs, words, texts_with)
    kept: list[Query] = []
    for kind in KINDS:
        of_kind = [query for query in queries if query.kind == kind]
        drawn.shuffle(of_kind)
        kept += of_kind[:each]
    return LabelledTexts(stored, kept)


def _is_name(word: str) -> object:
    return _NAME.fullmatch(word)


def _rare(
    kind: str, belongs: Callable[[str], object], words: Sequence[Sequence[str]], texts_with: Counter[str]
) -> list[Query]:
    """One word of the kind from each text that has such a word of its own."""
    found = []
    for answer, of_text in enumerate(words):
        # The first word of a sentence is capitalized whatever it is; so are headings. In the middle it is a name.
        inside = [word for before, word in pairwise(of_text) if before[-1:].islower()]
        own = [word for word in inside if len(word) > 3 and belongs(word) and texts_with[word.lower()] == 1]
        if own:
            found.append(Query(own[0], kind, answer))
    return found
