"""Queries whose right document is known: sentences, codes and names of real texts."""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

KINDS = ("sentence", "code", "name")
_WORD = re.compile(r"[\w.:/@#+-]*\w")
_INSIDE = re.compile(r"(?<=[a-z]\s)" + _WORD.pattern)
"""Words inside a sentence: the first is capitalized whatever it is, and so are headings."""
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

    A sentence is the first line of one text only, which is stored without it. A code or a name is a word that only one
    text has, in any case of its letters: an identifier, a version, an abbreviation, or a capitalized word inside a
    sentence.
    """
    drawn = random.Random(_SEED)
    stored: list[str] = []
    sentences: dict[str, int] = {}
    titles = Counter(text.partition("\n")[0].strip() for text in texts)
    for text in texts:
        title, rest = (part.strip() for part in text.partition("\n")[::2])
        if len(title) >= _SENTENCE_CHARACTERS and len(rest) >= _REST_CHARACTERS and titles[title] == 1:
            sentences[title] = len(stored)
            stored.append(rest)
        else:
            stored.append(text)
    queries = [Query(first, "sentence", answer) for first, answer in sentences.items()]
    texts_with = Counter(word for text in stored for word in {word.lower() for word in _WORD.findall(text)})
    for kind, belongs in (("code", _CODE.fullmatch), ("name", _is_name)):
        queries += _rare(kind, belongs, stored, texts_with)
    kept: list[Query] = []
    for kind in KINDS:
        of_kind = [query for query in queries if query.kind == kind]
        drawn.shuffle(of_kind)
        kept += of_kind[:each]
    return LabelledTexts(stored, kept)


def _is_name(word: str) -> object:
    return _NAME.fullmatch(word)


def _rare(kind: str, belongs: Callable[[str], object], texts: Sequence[str], texts_with: Counter[str]) -> list[Query]:
    """One word of the kind from each text that has such a word of its own."""
    queries = []
    for answer, text in enumerate(texts):
        inside = _INSIDE.findall(text)
        own = [word for word in inside if len(word) > 3 and belongs(word) and texts_with[word.lower()] == 1]
        if own:
            queries.append(Query(own[0], kind, answer))
    return queries
