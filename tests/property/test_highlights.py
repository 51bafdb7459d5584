"""Highlights of any text for any query."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.query.highlights import mark, sentences
from pipeline.query.terms import fold, terms_of

WORDS = st.sampled_from(
    [
        "refund",
        "Refund",
        "STRASSE",
        "straße",
        "the",
        "E1",
        "東",
        "京",
        "都",
        "東京",
        "カ",
        "ｶ",
        "환",
        "불",
        "กา",
        "é",
        "e\u0301",
    ]
)
GAPS = st.sampled_from([" ", ". ", "。", "\n\n", "-", "_", "'", "", "! ", "\u3000"])
MIXED = st.lists(st.one_of(WORDS, GAPS, st.characters(codec="utf-8")), max_size=40).map("".join)


@given(MIXED, MIXED)
def test_highlights_are_terms_of_the_query_in_order_and_apart(query: str, text: str) -> None:
    terms = terms_of(query)
    highlights, (first, last) = mark(text, terms)
    ends = 0
    for start, end in highlights:
        assert ends <= start < end <= len(text)
        ends = end
        found = text[start:end]
        pairs = {fold(a) + fold(b) for a, b in pairwise(found)}
        assert fold(found) in terms.words or fold(found) in terms.singles or pairs & terms.pairs
        assert fold(found) in terms.words or len(found) == 1 or pairs <= terms.pairs
    assert 0 <= first <= last <= len(text)
    assert text[first:last] == text[first:last].strip()
    assert (first == last) == (not text.strip())


@given(MIXED)
def test_a_text_as_its_own_query_has_every_word_marked(text: str) -> None:
    highlights, _ = mark(text, terms_of(text))
    marked = {offset for start, end in highlights for offset in range(start, end)}
    assert all(offset in marked for offset, character in enumerate(text) if character.isalnum())


@given(MIXED)
def test_sentences_cover_a_text_but_its_white_space(text: str) -> None:
    spans = list(sentences(text))
    covered = {offset for start, end in spans for offset in range(start, end)}
    assert spans == sorted(spans)
    assert sum(end - start for start, end in spans) == len(covered)
    assert all(text[offset].isspace() for offset in range(len(text)) if offset not in covered)
