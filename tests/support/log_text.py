"""The text that the process logs, as it would stand on stderr."""

import io
from collections.abc import Callable
from typing import TypeAlias

from pipeline.telemetry import configure_logging

LogText: TypeAlias = Callable[[str], io.StringIO]
"""`log_text(style)` sets logging up and returns what it writes to; it is undone after the test."""


def configure(style: str) -> io.StringIO:
    """The `LogText` of the fixture."""
    written = io.StringIO()
    configure_logging("info", style, written)
    return written
