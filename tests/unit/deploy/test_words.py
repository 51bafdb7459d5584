"""Words that this project does not use, because they are hard to understand where the field has a word of its own.

CONTRIBUTING.md, "Words", says what to write instead.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UNWANTED = {
    "told": "reported, announced",
    "tells": "reports, says",
    "anew": "again, from the start",
    "asked of": "read from, sent to",
    "as far as": "if, where",
    "for as long as it takes": "until it succeeds",
    "patience": "circuit breaker, or the limit in seconds",
    "patiently": "until a deadline",
    "mend": "repair",
    "mends": "repairs",
    "mended": "repaired",
    "mender": "repairer",
    "mending": "repair",
    "last word": "expected state",
    "judge": "compare, check",
    "judges": "compares, checks",
    "judged": "compared, checked",
    "meanwhile": "while ... runs",
    "lanes": "queues",
    "stands": "is, is stored",
    "letters": "dead letters",
}
# What a word means elsewhere: "stands for", "stands in for"; "dead letters", "letters and digits", "letters, digits".
_ALLOWED = re.compile(
    r"\b(?:stands (?:for|in)|dead letters|letters (?:and|or|of the)|letters, digits|capital letters)\b", re.I
)
_WORDS = re.compile(r"\b(?:" + "|".join(sorted(UNWANTED, key=len, reverse=True)) + r")\b", re.I)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TEST_NAME = re.compile(r"^ *(?:async )?def (test_\w+)|^class (\w+)", re.MULTILINE)
# This page lists the words themselves.
_LISTS_THEM = {"CONTRIBUTING.md"}


def unwanted(text: str) -> list[str]:
    """The unwanted words of a text; the parts of names count as words, a line break as a blank."""
    words = re.sub(r"[_\-]", " ", _HUMP.sub(" ", text))
    plain = re.sub(r"\s*\n[\s#>*]*", " ", words)
    return [match[0].lower() for match in _WORDS.finditer(_ALLOWED.sub(" ", plain))]


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of everything that is checked: product code, docs, and the names of tests."""
    for folder in ("pipeline", "consumers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), f"{path.stem}\n{path.read_text()}"
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        if path.name not in _LISTS_THEM:
            yield str(path.relative_to(ROOT)), path.read_text()
    for path in sorted((ROOT / "tests").rglob("*.py")):
        names = ["".join(found) for found in _TEST_NAME.findall(path.read_text())]
        yield str(path.relative_to(ROOT)), "\n".join([path.stem, *names])


def test_no_text_has_an_unwanted_word() -> None:
    found = [f"{name}: {word!r}; write {UNWANTED[word]}" for name, text in texts() for word in unwanted(text)]
    assert found == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the flusher is\n    # told of it", ["told"]),
        ("def mend(self)", ["mend"]),
        ("class LetterMender", ["mender"]),
        ("_told_at = None", ["told"]),
        ("as far\nas it is known", ["as far as"]),
        ("what stands there", ["stands"]),
        ("which stands for billions of values", []),
        ("sent to the dead letters", []),
        ("self._dead_letters.send(letters)", ["letters"]),
        ("letters and digits", []),
        ("an amendment, a recommended value", []),
    ],
)
def test_the_search_sees(text: str, words: list[str]) -> None:
    assert unwanted(text) == words
