"""Labelled pairs of queries and texts, from a file."""

from pathlib import Path

import pytest

from consumers.cli.embed.pairs import documentation_pairs, read_pairs
from pipeline.errors import UsageError


def test_a_query_may_have_several_texts_and_a_text_several_queries(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        '{"query": "q1", "text": "a"}\n'
        '{"query": "q2", "text": "b", "source": "left alone"}\n\n'
        '{"query": "q1", "text": "b"}\n{"query": "q1", "text": "a"}\n'
    )
    pairs = read_pairs(file)
    assert (pairs.source, pairs.queries, pairs.texts) == (str(file), ["q1", "q2"], ["a", "b"])
    assert pairs.relevant == [{0, 1}, {1}]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"plain text", "not a JSON object: Expecting value"),
        (b'{"query": "\xff"}', "not a JSON object: .*codec"),
        (b'["q", "t"]', 'not a JSON object: write {"query": …, "text": …}'),
        (b'{"text": "t"}', '"query" is missing'),
        (b'{"query": "q", "text": 3}', '"text" must be a text that is not blank'),
        (b'{"query": " ", "text": "t"}', '"query" must be a text that is not blank'),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: bytes, problem: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b'{"query": "q", "text": "t"}\n\n' + line + b"\n")
    with pytest.raises(UsageError, match=f"pairs.jsonl, line 3: {problem}"):
        read_pairs(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.jsonl cannot be read: No such file"):
        read_pairs(tmp_path / "none.jsonl")


def test_the_documentation_pairs_first_lines_with_the_rests_of_their_texts() -> None:
    pairs = documentation_pairs()
    assert 500 < len(pairs.queries) <= len(pairs.texts) <= 1000
    assert sum(map(len, pairs.relevant)) >= len(pairs.texts)
    assert all(
        not pairs.texts[index].startswith(query)
        for query, (index, *_) in zip(pairs.queries, pairs.relevant, strict=True)
    )
