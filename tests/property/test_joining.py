"""A document joined from its chunks is the original, or does not claim to be."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.chunking import Chunker
from pipeline.query.documents.joining import join
from tests.property.test_chunking import TEXTS, TOKENIZERS, policies
from tests.support.examples import examples


@st.composite
def cut_texts(draw: st.DrawFn, alphabet: str = "ab ") -> tuple[str, list[str]]:
    """A text and its chunks, each with text that none before it has; the fewer letters, the more chance overlaps."""
    text = draw(st.text(alphabet, min_size=1, max_size=40))
    chunks, covered = [], 0
    begin = 0
    while covered < len(text):
        end = draw(st.integers(covered + 1, len(text)))
        chunks.append(text[begin:end])
        begin, covered = draw(st.integers(begin + 1, end)), end
    return text, chunks


@examples(100)
@given(cut_texts())
def test_what_is_exact_is_the_original(case: tuple[str, list[str]]) -> None:
    text, chunks = case
    joined = join(chunks, lambda candidate: candidate == text)
    assert joined.exact is (joined.text == text)


@examples(100)
@given(cut_texts())
def test_without_a_digest_only_one_chunk_is_exact(case: tuple[str, list[str]]) -> None:
    text, chunks = case
    joined = join(chunks, None)
    assert joined.exact is (len(chunks) == 1)
    assert joined.text == text or not joined.exact


@examples(100)
@given(cut_texts("abcdefghijklmnopqrstuvwxyz"), st.integers(0, 2))
def test_a_wrong_digest_proves_nothing(case: tuple[str, list[str]], extra: int) -> None:
    _, chunks = case
    joined = join(chunks, lambda _: False)
    assert not joined.exact
    assert chunks[0] in joined.text


@examples(100)
@given(TEXTS.filter(bool), st.sampled_from(TOKENIZERS), policies())
def test_texts_cut_by_the_chunker_are_joined(text: str, tokenizer: object, policy: object) -> None:
    chunks = [chunk.text for chunk in Chunker(tokenizer, policy).chunk([text])[0]]  # type: ignore[arg-type]
    joined = join(chunks, lambda candidate: candidate == text)
    assert joined.exact is (joined.text == text)
