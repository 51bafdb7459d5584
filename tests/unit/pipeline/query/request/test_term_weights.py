"""How much exact words count in a query."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.query.fusion import DENSE, KEYWORD
from pipeline.query.request.term_weights import keyword_share, leg_weights

CODES = ("E1234", "os.path", "__init__", "camelCase", "HTTP", "2.3.5", "dead-letter", '"refund failed"', "`len`")
SENTENCE = "how do I get my money back after a refund failed"


@pytest.mark.parametrize("text", CODES)
def test_codes_and_quotations_are_found_by_their_words(text: str) -> None:
    assert keyword_share(text) > 0.8


def test_a_sentence_is_found_by_its_meaning_and_a_code_in_it_by_more_of_its_words() -> None:
    assert keyword_share(SENTENCE) < 0.3
    assert 0.5 < keyword_share(f"{SENTENCE} with E1234") < keyword_share("E1234")
    assert 0.5 < keyword_share("Ada Lovelace") < keyword_share("E1234")
    assert keyword_share(SENTENCE) < keyword_share("refund for tickets") < 0.5


@pytest.mark.parametrize("text", ["how do I do that?", "What is this. And that, there!"])
def test_punctuation_at_the_end_of_a_word_makes_no_code(text: str) -> None:
    assert keyword_share(text) < 0.3


@given(st.text())
def test_any_text_has_two_weights_that_add_up(text: str) -> None:
    weights = leg_weights(text)
    assert weights[DENSE] + weights[KEYWORD] == pytest.approx(1)
    assert min(weights.values()) > 0
