"""How much a query's exact words count beside its meaning. Pure."""

import re
from collections.abc import Mapping, Sequence
from math import ceil

from pipeline.query.fusion import DENSE, KEYWORD

_EDGES = "\"'`“”‘’„«»「」()[]{}<>,;:.!?…。、，！？；：（）"
_HAN = re.compile(r"[\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_SYLLABLES = re.compile(r"[\u3040-\u30ff\uff66-\uff9d\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Kana, Thai, Lao, Burmese and Khmer: written without spaces, as Han is."""
_HAN_PER_WORD, _SYLLABLES_PER_WORD = 2, 3
_QUOTED = re.compile(r"""(?:^|(?<=\s))(["`])[^"`]+\1(?=$|[\s.,;:!?)])|“[^“”]+”|«[^«»]+»|「[^「」]+」""")
_CODE = re.compile(
    r"""
      [^\W\d_]\d | \d[A-Z] | \d[^\W\d_]{3}                 # E1234, x86, 4K; not 90s, 5th, 10kg
    | [^\W\d_]-\d{3}                                       # CVE-2024-1234; not COVID-19
    | \d\.\d+\.\d                                          # 2.3.5
    | [^\W\d_]{2}\.(?:[a-z_]|[^\W\d_]{2})                  # os.path, main.c; not U.S., Ph.D.
    | [^\W_]_ | _[^\W_] | :: | :// | \\ | \w[@=]\w         # max_tokens, std::vector, ada@example.org
    | ^(?:--|/|@)\w                                        # --help, /etc/passwd, @app
    | ^[a-z]{2,}[A-Z][a-z] | ^(?:[A-Z][a-z]+){3}           # camelCase, NullPointerException; not iPhone, GitHub
    """,
    re.VERBOSE,
)
_HINT = re.compile(r"\d | [a-z][A-Z]", re.VERBOSE)
_ABBREVIATION = re.compile(r"[A-Z]{2,}")
_SHORT, _LONG = 2, 5
_CODES = 0.99
_NAMES, _PHRASE, _SENTENCE = 0.6, 0.25, 0.1
"""As ranks are compared and not scores, a share counts for more than it seems."""


def leg_weights(text: str) -> Mapping[str, float]:
    """The weights of both legs for a query.

    A model knows what words mean and hardly how they are spelt: codes, identifiers and rare names are found by their
    exact words, sentences by their meaning.
    """
    keyword = keyword_share(text)
    return {DENSE: 1 - keyword, KEYWORD: keyword}


def keyword_share(text: str) -> float:
    """The share of exact words in the result, from 0 to 1.

    1. No letter and no digit: nothing to find by words, as a sentence.
    2. A quotation, or half of the words or more are codes: they decide.
    3. Fewer codes, a number, an abbreviation or a name such as GitHub; or one or two words, usually a name: more than
       half.
    4. Five words or more: a sentence, a tenth.
    5. Between: a phrase, a quarter.
    """
    spaced = _SYLLABLES.sub(" ", _HAN.sub(" ", text)).split()
    words = [word for part in spaced if any(map(str.isalnum, word := part.strip(_EDGES)))]
    count = len(words) + _unspaced_words(text)
    if not count:
        return _SENTENCE
    codes = sum(bool(_CODE.search(word)) for word in words)
    if _QUOTED.search(text) or (codes and 2 * codes >= count):
        return _CODES
    if codes or count <= _SHORT or any(map(_HINT.search, words)) or _has_abbreviation(text, words):
        return _NAMES
    return _SENTENCE if count >= _LONG else _PHRASE


def _unspaced_words(text: str) -> int:
    """About how many words the characters of scripts without spaces are."""
    return ceil(len(_HAN.findall(text)) / _HAN_PER_WORD + len(_SYLLABLES.findall(text)) / _SYLLABLES_PER_WORD)


def _has_abbreviation(text: str, words: Sequence[str]) -> bool:
    """Whether a word is in capitals among others that are not; in a text of capitals they say nothing."""
    capitals_only = all(character.isupper() for character in text if character.isalpha())
    return not capitals_only and any(map(_ABBREVIATION.fullmatch, words))
