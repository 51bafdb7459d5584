"""Log lines in both styles: nothing in a value forges a line or steers a terminal, and a traceback shows no locals."""

import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import structlog

from pipeline.telemetry import configure_logging
from tests.support.log_text import LogText
from tests.support.rigs.hostile import HOSTILE

SECRET = "what the document says"
STYLES = ("json", "text")


def unprintable(line: str) -> list[str]:
    return [character for character in line if not character.isprintable()]


@pytest.mark.parametrize("style", STYLES)
def test_no_value_name_or_message_steers_the_terminal(log_text: LogText, style: str) -> None:
    written = log_text(style)
    log = structlog.get_logger("pipeline.test")
    for text in HOSTILE:
        log.warning("record.rejected", key=text, headers={text: [text]})
        log.warning(text)
        logging.getLogger("some.library").warning("it says %s", text)
    lines = written.getvalue().removesuffix("\n").split("\n")
    assert len(lines) == 3 * len(HOSTILE)
    assert [line for line in lines if unprintable(line)] == []


def test_json_lines_keep_every_value(log_text: LogText) -> None:
    written = log_text("json")
    for text in HOSTILE:
        structlog.get_logger("pipeline.test").warning("record.rejected", key=text)
    assert [json.loads(line)["key"] for line in written.getvalue().splitlines()] == list(HOSTILE)


def test_every_line_names_its_worker_whichever_thread_or_library_writes_it(log_text: LogText) -> None:
    log_text("json")
    written = io.StringIO()
    configure_logging("info", "json", written, bound={"worker": "3"})
    with ThreadPoolExecutor(1) as thread:
        thread.submit(structlog.get_logger("pipeline.test").info, "batch.written").result()
    logging.getLogger("some.library").warning("it says so")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["message"], line["worker"]) for line in lines] == [("batch.written", "3"), ("it says so", "3")]


class Refused(Exception):
    """What a server says, at length."""


def fail(document: str) -> None:
    vector = [0.125] * 1000
    try:
        raise Refused("no " * 50_000)
    except Refused as error:
        raise ValueError(f"{len(vector)} numbers\nfor {len(document)} characters\x1b[2J\x85\u2028end") from error


@pytest.mark.parametrize("style", STYLES)
def test_a_traceback_is_short_and_shows_no_locals(log_text: LogText, style: str) -> None:
    written = log_text(style)
    try:
        fail(SECRET)
    except ValueError:
        structlog.get_logger("pipeline.test").exception("flow.failed")
    text = written.getvalue()
    assert SECRET not in text
    assert "0.125" not in text.replace("[0.125] * 1000", "")
    assert "ValueError" in text
    assert "Refused" in text
    assert "test_logging.py" in text
    assert len(text) < 8_000
    lines = text.removesuffix("\n").split("\n")
    assert [line for line in lines if unprintable(line)] == []
    if style == "json":
        assert len(lines) == 1
        assert json.loads(lines[0])["exception"][0]["exc_type"] == "ValueError"
    else:
        assert all(line.startswith("    ") for line in lines[1:])
