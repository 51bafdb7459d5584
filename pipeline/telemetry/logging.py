"""The set-up of logging: JSON for machines, text for terminals, tracebacks without the values of variables."""

import logging
import sys
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TextIO

import structlog

from pipeline.telemetry.printable import printable

_FRAMES = 30
"""The innermost frames of an error that are logged."""
_MESSAGE_CHARACTERS = 500
_VALUE_CHARACTERS = 2_000
"""Enough to find the record again."""


def configure_logging(
    level: str, style: str, stream: TextIO | None = None, *, bound: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Send structlog's and every library's log lines to `stream`, by default stderr: JSON, or text on a terminal.

    `style` auto picks text on a terminal and JSON elsewhere. Every line has the values `bound`. Values are escaped in
    both, so a key or header with control characters cannot forge a line. A traceback names files, lines and errors,
    never the values of variables: among them are texts, vectors and filters.
    """
    stream = stream or sys.stderr
    text = style == "text" or (style == "auto" and stream.isatty())

    def bind(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**event, **bound}  # not by context variables: each thread would have to set them

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        bind,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        _shorten,
    ]
    if text:
        renderer: list[structlog.typing.Processor] = [
            _escape,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_write_traceback),
        ]
    else:
        renderer = [
            structlog.processors.ExceptionRenderer(_traceback_as_json),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("pipeline", "consumers"):
        logging.getLogger(name).setLevel(level.upper())
    # pymilvus logs a full traceback for every call while the server is away; the worker logs such a failure once.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _shorten(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Keep one value from filling the log."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _cut(value, _VALUE_CHARACTERS)
    return event


def _escape(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape every string: ConsoleRenderer escapes only those with a blank or a quote."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


_transform = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_FRAMES)


def _traceback_as_json(exc_info: structlog.typing.ExcInfo) -> list[dict[str, Any]]:
    errors = _transform(exc_info)
    for error in errors:
        error["exc_value"] = _cut(error["exc_value"], _MESSAGE_CHARACTERS)
    return errors


def _write_traceback(stream: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Write Python's own traceback, indented: a message of several lines cannot pass for log lines."""
    lines = "".join(traceback.format_exception(*error, limit=-_FRAMES)).splitlines()
    stream.writelines("\n    " + printable(_cut(line, _MESSAGE_CHARACTERS)) for line in lines)
