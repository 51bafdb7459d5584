"""The progress line of long commands."""

import io

from rich.console import Console

from consumers.cli.progress import progress_line


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
