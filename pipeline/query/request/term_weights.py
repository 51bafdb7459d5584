"""How much a query's exact words count beside its meaning. Pure."""

import re
from collections.abc import Mapping

from pipeline.query.fusion import DENSE, KEYWORD

_WORD = re.compile(r"\S+")
_EDGES = "\"'`“”‘’„«»()[]{}<>,;:.!?…"
_QUOTED = re.compile(r'"[^"]+"|`[^`]+`|“[^”]+”|«[^»]+»')
_CODE = re.compile(
    r"""
      \d                                  # E1234, 2.3.5, x86
    | [^\W\d_][_./:\\@#+=-]+[^\W\d_]      # os.path, dead-letter, a/b, user@host
    | _                                   # __init__
    | [a-z][A-Z]                          # camelCase
    | ^[A-Z]{2,}$                         # HTTP
    """,
    re.VERBOSE,
)
_SHORT, _LONG = 2, 5
_CODES = 0.99
_NAMES, _PHRASE, _SENTENCE = 0.6, 0.4, 0.25


def leg_weights(text: str) -> Mapping[str, float]:
    """The weights of both legs for a query.

    A model knows what words mean and hardly how they are spelt: codes, identifiers and rare names are found by their
    exact words, sentences by their meaning.
    """
    keyword = keyword_share(text)
    return {DENSE: 1 - keyword, KEYWORD: keyword}


def keyword_share(text: str) -> float:
    """The share of exact words in the result, from 0 to 1.

    1. A quotation, or half of the words or more are codes: they decide.
    2. Some words are codes: more than half.
    3. One or two words: usually a name, a little more than half.
    4. Five words or more: a sentence, a quarter.
    5. Between: a phrase.
    """
    words = [stripped for word in _WORD.findall(text) if (stripped := word.strip(_EDGES))]
    codes = sum(bool(_CODE.search(word)) for word in words)
    if _QUOTED.search(text) or 2 * codes >= max(len(words), 1):
        return _CODES
    if codes:
        return _NAMES
    if len(words) <= _SHORT:
        return _NAMES
    return _SENTENCE if len(words) >= _LONG else _PHRASE
