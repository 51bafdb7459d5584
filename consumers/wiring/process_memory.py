"""The memory of this process: how much it holds and has held (on Linux only), and what is there to stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


@contextmanager
def frozen() -> Iterator[None]:
    """Leave the objects that are there now out of Python's garbage collection until the end of the block.

    Looking them through again and again would take a sixth of an ingest worker's processor time, and hold Python's lock
    for 0.1 s at a time. At the end they are given back, or libraries would report them as leaked when Python exits.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def resident_bytes() -> int | None:
    """Bytes of this process in memory now."""
    return _field("VmRSS:")


def peak_bytes() -> int | None:
    """Most bytes this process had in memory, since its start or `forget_peak`.

    `ru_maxrss` would count what its parent had when it started this one.
    """
    return _field("VmHWM:")


def forget_peak() -> None:
    """Count the peak anew from here, where the kernel allows it."""
    with suppress(OSError):
        _CLEAR.write_text(_FORGET_PEAK)


def _field(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
