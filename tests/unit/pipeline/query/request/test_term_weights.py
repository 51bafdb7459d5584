"""How much exact words count in a query."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.query.fusion import DENSE, KEYWORD
from pipeline.query.request.term_weights import keyword_share, leg_weights

CODES_SHARE, NAMES, PHRASE, SENTENCE = 0.99, 0.6, 0.25, 0.1
QUESTION = "how do I get my money back after a refund failed"

CODES = (
    "E1234",
    "error E1234",
    "os.path",
    "main.c",
    "__init__",
    "max_tokens",
    "std::vector",
    "ada@example.org",
    "camelCase",
    "NullPointerException",
    "2.3.5",
    "10.0.0.1",
    "CVE-2024-1234",
    "x86",
    "https://example.org/a",
    "--accept-gap",
    "/etc/passwd",
    r"C:\temp",
    '"refund failed"',
    "`len`",
    "“refund failed” twice",
    'what does "refund failed", mean',
    "「返金」とは何ですか",
    "退款 E1234",
)
NAMED = (
    "US economy",
    "HTTP",
    "in 2024",
    "15",
    "3.14",
    "1,000",
    "2024-05-01",
    "90s music",
    "iPhone 15",
    "GitHub",
    "COVID-19",
    "Ph.D.",
    "U.S.",
    "Ada Lovelace",
    "self-driving cars",
    "e-mail",
    "Wi-Fi",
    "state-of-the-art",
    "and/or",
    "refund",
    "退款",
    "東京タワー",
    "退款失败",
    "refund 👍",
    "What is the best (HTTP)? And which is the worst of all?",
    "what happened to the economy of Europe in 2024",
    f"{QUESTION} with E1234",
    '24" monitor or 27" monitor',
    "如何在2024年的经济中找到更好的工作",
    "如何使用 HTTP 协议来传输我的文件",
    "iPhone15多少钱一台",
)
PHRASES = ("refund for tickets", "Refund for tickets!", "cheap self-driving cars", "退款失败了怎么")
SENTENCES = (
    QUESTION,
    "HOW DO I GET A REFUND",
    "how do I do that?",
    "What is this. And that, there!",
    "what is the best state-of-the-art e-mail and/or chat",
    "退款失败后我怎样才能把钱要回来",
    "返金に失敗したときはどうすればいいですか",
    "くるまをとめるばしょはどこですか",
    "ฉันจะขอเงินคืนได้อย่างไร",
    "?!",
    "👍 🎉",
    "-> && --",
)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        *((text, CODES_SHARE) for text in CODES),
        *((text, NAMES) for text in NAMED),
        *((text, PHRASE) for text in PHRASES),
        *((text, SENTENCE) for text in SENTENCES),
    ],
)
def test_the_share_of_exact_words(text: str, share: float) -> None:
    assert keyword_share(text) == share


def test_a_sentence_of_a_few_characters_without_spaces_is_one() -> None:
    for sentence in ("退款失败后我怎样才能把钱要回", "くるまをとめるばしょはどこです"):
        assert len(sentence) <= 15
        assert keyword_share(sentence) == SENTENCE


@given(st.text())
def test_any_text_has_two_weights_that_add_up(text: str) -> None:
    weights = leg_weights(text)
    assert weights[DENSE] + weights[KEYWORD] == pytest.approx(1)
    assert min(weights.values()) > 0
