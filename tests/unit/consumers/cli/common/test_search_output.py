"""What `search` prints on a terminal: texts and ids of documents are data, whatever stands in them."""

import io
import re
import sys
from typing import Any

import pytest
from rich.console import Console

from consumers.cli.common import output
from consumers.cli.common.output import one_line
from consumers.cli.common.results import show_answer, show_results

HOSTILE = [
    "[/]", "[/INST]", "[INST] hi [/INST]", "[/red]", "[bold]x[/italic]", "[red]x[/red]", "[on red]   [/]",
    "[not bold]x", "[link=file:///etc/passwd]click[/link]", "[@click=app.quit]x[/]", ":smile:",
    ":warning: 12:30:45", "\\[bold]", "[[x]]", "\x1b[31mred\x1b[0m", "\x1b]8;;http://evil\x1b\\x\x1b]8;;\x1b\\",
    "\x1b]0;title\x07", "\x9b31mred", "\x9d0;title\x9c", "\x90q", "\u202eevil\u202c", "\u2066a\u2069", "\u200fx",
    "a\x00b", "a\rb", "a\x08\x08b", "\ufeffx", "\u2028x", "\U000e0041x",
]  # fmt: skip
ALLOWED = re.compile(r"\x1b\[[0-9;]*m")
"""The colours that rich itself sets on a terminal, e.g. of the table's head."""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def result(text: str, doc_id: str) -> dict[str, Any]:
    hit = {"score": 0.5, "doc_id": doc_id, "event_time": "2026-11-22T12:00:00Z", "partition": "d20261122", "text": text}
    searched = {"partitions": 1, "skipped": 0, "reasons": {}}
    return {"results": [hit], "searched": searched, "timing_ms": {"search": 1.0, "embed": 1.0}, "warnings": [text]}


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """In the place of stdout and stderr from now on; not a fixture, because pytest sets both again before the test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    return stream


@pytest.mark.parametrize("make", [output.stdout, Console])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_shows_texts_ids_and_titles_as_they_are(
    monkeypatch: pytest.MonkeyPatch, text: str, make: Any
) -> None:
    terminal = a_terminal(monkeypatch)
    console = make()
    assert console.is_terminal
    show_results(result(text, text), console, title=text)
    printed = ALLOWED.sub("", terminal.getvalue())
    assert printed.replace("\n", "").isprintable()
    shown = one_line(text)
    assert printed.count(shown) >= 3, printed  # title, text, warning, and the id where it fits its column


def hit(text: str, **changes: Any) -> dict[str, Any]:
    (found,) = result(text, "a")["results"]
    return {**found, **changes}


def printed(console: Console, *hits: dict[str, Any]) -> list[str]:
    """The lines about these hits."""
    show_results({**result("", ""), "results": list(hits), "warnings": []}, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().split("\n")[: 2 * len(hits)]


def pipe(width: int = 40) -> Console:
    return Console(file=io.StringIO(), width=width, markup=False, highlight=False, soft_wrap=True)


def terminal(width: int = 40) -> Console:
    return Console(file=Terminal(), width=width, force_terminal=True, color_system="standard", legacy_windows=False)


def test_two_lines_for_each_result_and_every_id_whole() -> None:
    ids = ["x" * 300, "b"]
    for console in (pipe(), terminal()):
        lines = printed(console, *(hit("A text.", doc_id=doc_id) for doc_id in ids))
        assert [ids[number] in lines[2 * number] for number in (0, 1)] == [True, True]
        assert ["A text." in ALLOWED.sub("", line) for line in lines] == [False, True, False, True]
        assert all(part in lines[2] for part in ("0.500", "d20261122"))


def test_the_passage_is_shown_and_bold_on_a_terminal_only() -> None:
    shown = hit("First. A refund\nfailed here. Last.", passage=[7, 28], highlights=[[0, 5], [9, 15], [16, 22]])
    assert printed(pipe(), shown)[1] == "         A refund failed here."
    assert printed(terminal(), shown)[1] == "         A \x1b[1mrefund\x1b[0m \x1b[1mfailed\x1b[0m here."


def test_a_terminal_cuts_the_passage_at_its_width_and_a_pipe_does_not() -> None:
    shown = hit("word " * 40 + "end", passage=[0, 203], highlights=[[0, 4]])
    assert printed(pipe(), shown)[1].endswith("word end")
    line = ALLOWED.sub("", printed(terminal(), shown)[1])
    assert len(line) <= 40
    assert line.endswith("…")


def test_what_is_in_a_highlight_cannot_steer_the_terminal() -> None:
    text = "a \x1b[31mred\x07 [bold]b[/] c"
    shown = hit(text, passage=[0, len(text)], highlights=[[0, 1], [2, 10], [17, 18]])
    line = ALLOWED.sub("", printed(terminal(200), shown)[1])
    assert line.strip() == "a \\u001b[31mred\\u0007 [bold]b[/] c"


def test_a_result_without_a_passage_shows_its_text() -> None:
    assert printed(pipe(), hit(" one\n two "))[1] == "         one two"
    assert printed(pipe(), hit("", passage=[0, 0], highlights=[]))[1].strip() == ""


def test_offsets_of_another_program_show_no_character_twice() -> None:
    shown = hit("0123456789", passage=[0, 10], highlights=[[8, 0], [9, 1], [10, 2], [-5, 3], [2, 4], [3, 5], [6, 99]])
    assert printed(pipe(), shown)[1].strip() == "0123456789"


def test_control_and_format_characters_are_shown_as_escapes() -> None:
    assert one_line("a\x9b31m\u202eb\x1b\n c") == "a\\u009b31m\\u202eb\\u001b c"


def test_an_answer_is_printed_with_its_count_its_explanation_and_each_warning_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = a_terminal(monkeypatch)
    one = result("text", "a")
    explain = {"mode": "dense", "id": "\u202eevil\x1b[31m"}
    answers = [{"results": one.pop("results")}, {"results": []}]
    show_answer({**one, "answers": answers, "total": 12_345, "explain": explain}, output.stdout())
    printed = ALLOWED.sub("", terminal.getvalue())
    assert printed.count("1 Milvus partitions searched, 0 skipped") == 2
    assert "12,345 rows match filter and time range" in printed
    assert '"mode": "dense"' in printed
    assert printed.count("warning: text") == 1
    assert printed.replace("\n", "").isprintable()
