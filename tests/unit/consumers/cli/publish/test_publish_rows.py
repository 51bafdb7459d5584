"""Rows of files and folders: each one is a record's value, or has a place and a reason."""

import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from consumers.cli.publish.rows import Row, Shape, json_lines, read_rows, renames
from pipeline.errors import UsageError


def shape(*, max_bytes: int = 1_000, **renamed: str) -> Shape:
    return Shape("id", "text", "event_time", renamed, max_bytes)


def values(rows: list[Row]) -> list[Any]:
    return [json.loads(row.value) for row in rows if row.value is not None]


def problems(rows: list[Row]) -> dict[str, str]:
    return {row.where: row.problem for row in rows if row.value is None}


def test_json_lines_are_sent_byte_for_byte_with_their_line_numbers() -> None:
    content = b'\xef\xbb\xbf{"id": 1,  "text":"a"}\r\n\n  {"id":18446744073709551616}\n[1]\nx'
    rows = list(json_lines(BytesIO(content), "f", shape()))
    assert [row.value for row in rows] == [b'{"id": 1,  "text":"a"}', b'{"id":18446744073709551616}', None, None]
    assert [row.where for row in rows] == ["f:1", "f:3", "f:4", "f:5"]


def test_a_line_that_is_too_long_is_named_and_the_next_one_is_read() -> None:
    content = b'{"id":"' + b"x" * 5_000 + b'"}\n{"id":"b"}\n' + b'{"id":"c"}' + b" " * 2_000
    rows = list(json_lines(BytesIO(content), "f", shape(max_bytes=100)))
    assert [row.where for row in rows] == ["f:1", "f:2", "f:3"]
    assert values(rows) == [{"id": "b"}]
    assert "kafka.max_record_bytes" in problems(rows)["f:1"]


def test_fields_are_renamed_and_none_is_lost() -> None:
    lines = [
        b'{"slug":"a","body":"t","n":18446744073709551617}',
        b'{"body":"t"}',
        b'{"slug":"a","id":"b","body":"t"}',
        b'{"slug":NaN,"body":"t"}',
        b'{"slug":"\xff","body":"t"}',
        b'{"slug":' + b"[" * 900,
        b'{"slug":1',
    ]
    rows = list(json_lines(BytesIO(b"\n".join(lines)), "f", shape(slug="id", body="text")))
    assert values(rows) == [{"id": "a", "text": "t", "n": 18446744073709551617}]
    found = problems(rows)
    assert set(found) == {f"f:{number}" for number in range(2, 8)}
    assert '"slug"' in found["f:2"]
    assert '"id" is there as well' in found["f:3"]
    assert found["f:5"] == "it is not UTF-8"


def test_one_field_cannot_be_taken_twice() -> None:
    with pytest.raises(UsageError, match="--text-from a"):
        renames([("--id-from", "a", "id"), ("--text-from", "a", "text")])
    assert renames([("--id-from", "id", "id"), ("--text-from", None, "text")]) == {}


def test_csv_rows_have_the_line_where_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(b'\xef\xbb\xbfslug,text,n\r\na,"two\nlines",\nb,short\n\nc,"x"y,1\nd,\xff,1\ne,"say ""hi""",2\n')
    rows = list(read_rows(path, shape(slug="id")))
    assert values(rows) == [{"id": "a", "text": "two\nlines"}, {"id": "e", "text": 'say "hi"', "n": "2"}]
    assert set(problems(rows)) == {"f.csv:4", "f.csv:6", "f.csv:7"}


@pytest.mark.parametrize("header", ["", "a,a", "a,,b"])
def test_csv_needs_a_header(tmp_path: Path, header: str) -> None:
    (tmp_path / "f.csv").write_text(f"{header}\n1,2\n")
    with pytest.raises(UsageError, match=r"f\.csv:1"):
        list(read_rows(tmp_path / "f.csv", shape()))


def test_a_folder_gives_texts_and_says_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.md").write_text("hidden")
    (tmp_path / "a" / "b.md").write_bytes(b"\xef\xbb\xbftext")
    os.utime(tmp_path / "a" / "b.md", (1_700_000_000, 1_700_000_000))
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "latin.TXT").write_bytes(b"caf\xe9")
    (tmp_path / "large.txt").write_text("x" * 2_000)
    (tmp_path / "other.pdf").write_bytes(b"%PDF")
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    rows = list(read_rows(tmp_path, shape()))
    assert values(rows) == [{"id": "a/b.md", "text": "text", "event_time": "2023-11-14T22:13:20Z"}]
    found = problems(rows)
    assert set(found) == {"binary.txt", "latin.TXT", "large.txt", "gone.md", "pipe.txt"}
    assert found["latin.TXT"] == "it is not UTF-8"
    assert found["pipe.txt"] == "it is no regular file"


def test_a_kind_of_file_that_is_not_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.xlsx").write_text("x")
    with pytest.raises(UsageError, match=r"\.jsonl, \.ndjson or \.csv"):
        list(read_rows(tmp_path / "f.xlsx", shape()))
