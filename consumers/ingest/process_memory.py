"""The memory of this process, now and at its peak. Linux only: elsewhere None."""

from contextlib import suppress
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"


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
