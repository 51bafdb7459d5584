"""Whatever the text and the tokenizer: chunks cover the text, stay within the limits, and each adds new text."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import HashEmbedder
from pipeline.records import Tokens
from tests.support.examples import examples


class ByteTokens:
    """A byte-level tokenizer: several tokens for one character, none for controls, and spaces lead their words."""

    max_tokens = 64

    def tokenize(self, texts: Sequence[str], fits: int = 0) -> list[Tokens]:
        return [self._tokens(text, fits) for text in texts]

    def _tokens(self, text: str, fits: int) -> Tokens:
        spans: list[tuple[int, int]] = []
        for match in re.finditer(r" ?[a-z]+|[^\x00-\x08]", text):
            bytes_of_it = 1 if match.group().isascii() else len(match.group().encode("utf-8", "surrogatepass"))
            spans += [match.span()] * bytes_of_it
        offsets = np.array(spans, dtype=np.int32).reshape(-1, 2)
        ids = np.arange(len(spans), dtype=np.int32)
        if len(spans) <= fits:
            offsets = offsets[:0]
        return Tokens(ids, offsets[:, 0], offsets[:, 1])


class Unordered(ByteTokens):
    """Offsets as a normalizer that reorders characters reports them: not rising, and past the end."""

    def _tokens(self, text: str, fits: int) -> Tokens:
        ids, starts, ends = super()._tokens(text, fits)
        shifted = starts + np.resize(np.array([0, 2, -1, 1], dtype=np.int32), len(starts))
        return Tokens(ids, np.maximum(shifted, 0).astype(np.int32), ends)


TOKENIZERS = (HashEmbedder("hash:2").tokenizer, ByteTokens(), Unordered())
PARTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["word", " ", ". ", "\n\n", "。", "? A", "e.g. ", "x" * 30, " " * 30, "🎉", "\x00", "\ud800", "\r\n"]
    ),
)
TEXTS = st.lists(PARTS, max_size=60).map("".join)


@st.composite
def policies(draw: st.DrawFn) -> ChunkingPolicy:
    limit = draw(st.integers(1, 40))
    return ChunkingPolicy(limit, draw(st.integers(0, limit - 1)), draw(st.one_of(st.integers(4, 60), st.just(65_535))))


def size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


@given(st.sampled_from(TOKENIZERS), TEXTS, policies())
@examples(6)
def test_chunks_cover_the_text_within_the_limits(tokenizer: ByteTokens, text: str, policy: ChunkingPolicy) -> None:
    chunks = Chunker(tokenizer, policy).chunk([text])[0]
    assert chunks[0].start == 0
    assert chunks[-1].end == len(text)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.text == text[chunk.start : chunk.end]
        assert size(chunk.text) <= policy.max_bytes
        assert len(chunk.token_ids) <= (policy.max_tokens or 0)
        assert chunk.token_ids.dtype == np.int32
    for earlier, later in pairwise(chunks):
        assert earlier.start < later.start <= earlier.end < later.end


@given(TEXTS, policies())
@examples(2)
def test_overlap_and_ids_are_exact_for_words(text: str, policy: ChunkingPolicy) -> None:
    tokenizer = HashEmbedder("hash:2").tokenizer
    chunks = Chunker(tokenizer, policy).chunk([text])[0]
    if policy.max_bytes == 65_535:
        for chunk in chunks:
            assert len(chunk.token_ids) == len(chunk.text.split())
    for earlier, later in pairwise(chunks):
        assert len(text[later.start : earlier.end].split()) <= policy.overlap


@given(st.sampled_from(TOKENIZERS), st.lists(TEXTS, max_size=4), policies())
@examples(1.5)
def test_the_chunks_of_a_text_do_not_depend_on_other_texts(
    tokenizer: ByteTokens, texts: list[str], policy: ChunkingPolicy
) -> None:
    chunker = Chunker(tokenizer, policy)
    together = chunker.chunk(texts)
    alone = [chunker.chunk([text])[0] for text in texts]
    assert len(together) == len(texts)
    for left, right in zip(together, alone, strict=True):
        assert [(chunk.start, chunk.end) for chunk in left] == [(chunk.start, chunk.end) for chunk in right]
        assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(left, right, strict=True))
