import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.cli.output import escaped, printable, span, stdout, table, utc


@given(st.text())
def test_nothing_printed_can_steer_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert escaped(text).replace("\n", "").replace("\t", "").isprintable()


def test_escaping_keeps_lines_and_shows_what_was_there() -> None:
    assert escaped("a\n\tb é\x1b[31m\x9b\u202e") == "a\n\tb é\\x1b[31m\\x9b\\u202e"


@pytest.mark.parametrize(
    ("epoch_ms", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_795_348_800_999, "2026-11-22T12:00:00Z"), (None, "-"), (2**62, "-")],
)
def test_times(epoch_ms: int | None, text: str) -> None:
    assert utc(epoch_ms) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2.0 min"), (12_600, "3.5 h"), (172_800, "2.0 d"), (None, "-")],
)
def test_spans(seconds: float | None, text: str) -> None:
    assert span(seconds) == text


def test_markup_in_a_cell_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    stdout().print(table(("name", "rows"), [("[red]x[/red] :smile:", 1234), ("none", None), ("yes", True)]))
    printed = capsys.readouterr().out
    assert "[red]x[/red] :smile:" in printed
    assert "1,234" in printed
