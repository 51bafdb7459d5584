"""Joining: repeated texts, chance overlaps, and texts made to be slow."""

import time

import pytest

from pipeline.query.documents.joining import join


@pytest.mark.parametrize(
    ("text", "size", "overlap"),
    [
        ("one chunk", 100, 0),
        ("The refund failed twice. The refund failed twice. The refund failed twice.", 30, 10),
        ("The refund failed twice. It was sent again on Monday, and failed again.", 16, 0),
        ("ab" * 500, 100, 20),
        ("a" * 1_000, 100, 0),
        ("a" * 1_000, 100, 30),
        ("x y " * 300, 64, 8),
        ("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。", 9, 3),
        ("👩‍👩‍👧 " * 50, 20, 5),
    ],
)
def test_the_original_is_found_by_its_digest(text: str, size: int, overlap: int) -> None:
    starts = range(0, max(len(text) - overlap, 1), size - overlap)
    chunks = [text[start : start + size] for start in starts]
    joined = join(chunks, lambda candidate: candidate == text)
    assert (joined.text, joined.exact) == (text, True)


def test_without_a_digest_the_longest_overlaps_are_taken_and_chance_ones_are_not() -> None:
    assert join(["refund failed tw", "failed twice"], None).text == "refund failed twice"
    joined = join(["refund", "done"], None)
    assert (joined.text, joined.exact) == ("refunddone", False)


def test_texts_made_to_be_slow_take_bounded_work() -> None:
    before = "a" * 60_000 + "b"
    began = time.process_time()
    joined = join([before, "a" * 60_001] * 20, lambda _: False)
    assert time.process_time() - began < 20
    assert not joined.exact
