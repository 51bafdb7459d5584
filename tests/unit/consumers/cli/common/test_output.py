import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from consumers.cli.common.output import one_line, progress_line, span, stdout, table, utc
from pipeline.telemetry import printable


@given(st.text())
def test_nothing_printed_can_steer_a_terminal(text: str) -> None:
    assert one_line(text).isprintable()
    assert printable(text).isprintable()
    assert printable(text, keep="\n\t").replace("\n", "").replace("\t", "").isprintable()


def test_escaping_keeps_lines_and_shows_what_was_there() -> None:
    text = "a\n\tb é\x1b[31m\x9b\u202e"
    assert printable(text, keep="\n\t") == "a\n\tb é\\u001b[31m\\u009b\\u202e"
    assert one_line(text) == "a b é\\u001b[31m\\u009b\\u202e"


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


def shown(*steps: tuple[str, int, int | None], terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with progress_line(console) as line:
        for step in steps:
            line(*step)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_the_step_and_how_far_it_is() -> None:
    text = shown(("records", 10, 20), ("rows", 3, None), terminal=True)
    assert "rows" in text
    assert "3/?" in text


def test_a_step_replaces_the_one_before() -> None:
    assert "records" not in shown(("records", 10, 20), ("rows", 3, None), terminal=True).splitlines()[-1]


def test_a_pipe_gets_nothing() -> None:
    assert shown(("records", 10, 20), terminal=False) == ""


def test_a_line_that_remains_is_printed_into_a_pipe() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    with progress_line(console, remains=True) as line:
        line("ingested", 20, 20, "lag 0")
    assert isinstance(console.file, io.StringIO)
    assert "20/20 lag 0" in console.file.getvalue()
