"""The text that the process logs, as it would stand on stderr."""

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import structlog

from pipeline.telemetry import configure_logging

LogText: TypeAlias = Callable[[str], io.StringIO]
"""`log_text(style)` sets logging up and returns what it writes to."""


@contextmanager
def captured() -> Iterator[LogText]:
    """Logging as it was, afterwards."""
    root = logging.getLogger()
    before, level = root.handlers, root.level

    def configure(style: str) -> io.StringIO:
        written = io.StringIO()
        configure_logging("info", style, written)
        return written

    try:
        yield configure
    finally:
        root.handlers = before
        root.setLevel(level)
        structlog.reset_defaults()
