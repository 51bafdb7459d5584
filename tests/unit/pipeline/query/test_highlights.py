"""Highlights and the passage of a text: which words are terms of a query, and which sentence is shown."""

import pytest

from pipeline.query.highlights import MAX_HIGHLIGHTS, MAX_PASSAGE_CHARS, mark
from pipeline.query.terms import MAX_WORD_CHARS, terms_of
from tests.support.counting import lines_run


def marked(query: str, text: str) -> list[str]:
    highlights, _ = mark(text, terms_of(query))
    return [text[start:end] for start, end in highlights]


def passage(query: str, text: str) -> str:
    _, (start, end) = mark(text, terms_of(query))
    return text[start:end]


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("Refund failed", "REFUND, failed: refunds fail. prerefund", ["REFUND", "failed"]),
        ("straße", "STRASSE Straße strasse", ["STRASSE", "Straße", "strasse"]),
        ("naïve", "nai\u0308ve naive", ["nai\u0308ve"]),
        ("ﬁle", "FILE file ﬁle", ["FILE", "file", "ﬁle"]),
        ("ＡＢＣ", "abc ａｂｃ", ["abc", "ａｂｃ"]),
        ("ΣΊΣΥΦΟΣ", "σίσυφος", ["σίσυφος"]),
        ("max_tokens os.path", "set max_tokens, not path2", ["max", "tokens"]),
        ("l'avion", "un avion", ["avion"]),
        ("E1234", "error E1234-5 e1234 E12345", ["E1234", "e1234"]),
        ("हिन्दी", "यह हिन्दी है, हिन्द नहीं", ["हिन्दी"]),
        ("mi\u200cravam", "او mi\u200cravam mi", ["mi\u200cravam"]),
        ("?!", "what?!", []),
        ("", "text", []),
        ("text", "", []),
        ("a.b", "a.b a", ["a", "b", "a"]),
    ],
)
def test_words_are_compared_folded_and_whole(query: str, text: str, expected: list[str]) -> None:
    assert marked(query, text) == expected


@pytest.mark.parametrize(
    ("query", "text", "expected"),
    [
        ("東京都", "東京都庁と京都", ["東京都", "京都"]),
        ("東京大阪", "大阪東京", ["大阪", "東京"]),
        ("東", "東京は東", ["東", "東"]),
        ("환불", "환불이 실패", ["환불"]),
        ("ｶﾅ", "カナとｶﾅ", ["カナ", "ｶﾅ"]),
        ("iPhone手机", "新iphone手机壳", ["iphone", "手机"]),
        ("กาแฟ", "ร้านกาแฟดี", ["กาแฟ"]),
        ("京", "KYOTO", []),
    ],
)
def test_scripts_without_spaces_are_compared_by_pairs(query: str, text: str, expected: list[str]) -> None:
    assert marked(query, text) == expected


def test_offsets_count_code_points() -> None:
    highlights, _ = mark("🙂🙂 refund", terms_of("refund"))
    assert highlights == ((3, 9),)


def test_the_passage_is_the_sentence_with_the_rarest_terms() -> None:
    text = "The order came. The customer wrote. The refund failed!  The order was the last."
    assert passage("the refund", text) == "The refund failed!"
    assert passage("the last order", text) == "The order was the last."
    assert passage("the order", text) == "The order came."  # of two the first


def test_without_a_term_the_passage_is_the_first_sentence() -> None:
    assert passage("nothing", "  First, e.g. this. Second.") == "First, e.g. this."
    assert passage("nothing", "") == passage("nothing", " \n ") == ""
    assert passage("q", "東京です。大阪です。") == "東京です。"
    assert passage("大阪", "東京です。大阪です。") == "大阪です。"


def test_a_long_sentence_is_cut() -> None:
    text = "word " * 1_000 + "refund " + "word " * 1_000
    shown = passage("refund", text)
    assert "refund" in shown
    assert len(shown) <= MAX_PASSAGE_CHARS
    assert len(passage("x", "x" * 10_000)) == MAX_PASSAGE_CHARS


def test_the_highlights_are_bounded_and_those_of_the_passage_are_among_them() -> None:
    text = "refund. " * 5_000 + "A refund code."
    highlights, (start, end) = mark(text, terms_of("refund code"))
    assert text[start:end] == "A refund code."
    assert len(highlights) == MAX_HIGHLIGHTS
    assert [text[first:last] for first, last in highlights if first >= start] == ["refund", "code"]
    assert list(highlights) == sorted(highlights)


def test_a_word_that_is_too_long_is_no_term() -> None:
    assert marked("x" * MAX_WORD_CHARS, "x" * MAX_WORD_CHARS) != []
    assert marked("x" * (MAX_WORD_CHARS + 1), "x" * (MAX_WORD_CHARS + 1)) == []


@pytest.mark.parametrize(
    "piece",
    ["refund. ", "refund ", "東京都", "。", ".", "\n", "a\u0301", "e\u0301\u0327", "ｶﾞ", "x", " ", "'", '."', "\u0301"],
)
def test_twice_the_text_is_at_most_twice_the_work(piece: str) -> None:
    terms = terms_of("refund 東京都 x カ")
    mark(piece, terms)  # what is compiled once
    texts = [piece * (size // len(piece)) for size in (16_000, 32_000)]
    once, twice = (lines_run(lambda text=text: mark(text, terms)) for text in texts)  # type: ignore[misc]
    assert twice <= 2.2 * once + 50
