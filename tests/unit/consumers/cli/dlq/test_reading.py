from collections.abc import Sequence

import pytest

from consumers.cli.dlq.reading import DeadLetterView, one, show_list, show_one
from consumers.config import Settings
from consumers.dead_letters import decode_dead_letter
from pipeline.errors import UsageError
from pipeline.records import Position, SourceRecord


def _letter(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = ()) -> DeadLetterView:
    about = (
        ("__connect.errors.topic", b"docs"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"17"),
        ("__connect.errors.stage", b"decode"),
        ("__connect.errors.exception.message", b"not JSON"),
        ("milvus-stream.reason", b"invalid_json"),
    )
    position = Position("docs.dlq", 0, 5)
    return DeadLetterView(decode_dead_letter(SourceRecord(position, 1_795_348_800_000, key, value, (*headers, *about))))


def test_a_letter_as_json() -> None:
    letter = _letter(b"k", "é\x1b".encode(), [("trace", b"\xff"), ("empty", b"")])
    whole = letter.as_dict(with_value=True)
    assert {name: whole[name] for name in letter.as_dict(with_value=False)} == {
        "position": "0/5",
        "topic": "docs",
        "partition": 3,
        "offset": 17,
        "time": "2026-11-22T12:00:00Z",
        "stage": "decode",
        "reason": "invalid_json",
        "message": "not JSON",
        "truncated": False,
    }
    assert (whole["key"], whole["value"]) == ("k", "é\x1b")
    assert whole["headers"] == [["trace", {"base64": "/w=="}], ["empty", ""]]
    assert ["milvus-stream.reason", "invalid_json"] in whole["dead_letter_headers"]


@pytest.mark.parametrize(("raw", "shown"), [(None, None), (b"", ""), (b"\xff\x00", {"base64": "/wA="})])
def test_values_that_are_no_text_as_json(raw: bytes | None, shown: object) -> None:
    assert _letter(None, raw).as_dict(with_value=True)["value"] == shown


def test_a_letter_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = b"\x1b]0;owned\x07[red]line\r\nnext\x1b[2J"
    show_one(_letter(hostile, hostile, [("\x1b[31mname", hostile)]))
    show_one(_letter(None, b"\xff\xfe"))
    show_list([_letter(hostile, hostile)])
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert "\\u001b]0;owned\\u0007[red]line\\r\nnext\\u001b[2J" in printed
    assert "(null)" in printed
    assert "(2 bytes, no UTF-8; base64) //4=" in printed
    assert "docs/3/17" in printed


@pytest.mark.parametrize("position", ["", "5", "0/", "/5", "-1/5", "0/5/6", "a/b", "0/ 5", "٣/٥", "0/" + "9" * 30])
def test_what_is_no_position_is_refused_before_anything_is_asked(settings: Settings, position: str) -> None:
    with pytest.raises(UsageError, match="PARTITION/OFFSET"):
        one(settings, position)
