"""The memory of this process: now and at its peak (Linux only; elsewhere None), and kept out of the collector."""

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

    Traversing them again and again would take a sixth of an ingest worker's processor time, and hold Python's lock
    for 0.1 s at a time. At the end they are given back, or libraries would report them as leaked when Python exits.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def resident_bytes() -> int | None:
    """Resident bytes of this process now."""
    return _field("VmRSS:")


def peak_bytes() -> int | None:
    """Highest number of resident bytes since the start of this process or `forget_peak`.

    `ru_maxrss` would include the memory of its parent at the fork.
    """
    return _field("VmHWM:")


def forget_peak() -> None:
    """Restart the measurement of the peak, where the kernel allows it."""
    with suppress(OSError):
        _CLEAR.write_text(_FORGET_PEAK)


def _field(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
