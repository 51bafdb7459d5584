"""The work of a call in lines of Python, which is the same on every machine, however loaded."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_PRODUCT = (f"{Path(__file__).parents[2] / 'pipeline'}/", f"{Path(__file__).parents[2] / 'consumers'}/")


def lines_run(call: Callable[[], object]) -> int:
    """How many lines of the product `call` runs in this thread."""
    count = 0

    def on_line(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return on_line

    def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return on_line if frame.f_code.co_filename.startswith(_PRODUCT) else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        call()
    finally:
        sys.settrace(before)
    return count
