"""How much memory this process holds and has held; Linux tells it, elsewhere there is no answer."""

from contextlib import suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


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
