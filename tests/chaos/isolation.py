"""A run's own network and its own small disks, so that runs beside one another share neither ports nor folders.

Both need root and Linux namespaces. Without them a run takes free ports, and no disk of it can be full.
"""

import fcntl
import itertools
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_INSIDE = "CHAOS_ISOLATED"
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def isolated() -> bool:
    """Whether this process has a network and mounts of its own."""
    return os.environ.get(_INSIDE) == "1"


def isolate(arguments: Sequence[str]) -> None:
    """Go on as `python arguments` in namespaces of its own; return where that cannot be, or has been done."""
    unshare = shutil.which("unshare")
    if isolated():
        _loopback_up()
        return
    if unshare is None or os.geteuid() != 0:
        return
    options = ["--mount", "--net", "--propagation", "private"]
    if subprocess.run([unshare, *options, "true"], capture_output=True, check=False).returncode == 0:
        # The same process goes on: whoever sends it a signal need not know.
        os.execve(unshare, [unshare, *options, sys.executable, *arguments], {**os.environ, _INSIDE: "1"})


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack("16xh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


class Disk:
    """A file system of its own for one server's data, in memory; it can be full for a time."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size

    def fill(self) -> None:
        """Leave no room: what is written from now on fails with ENOSPC."""
        for spare in itertools.count(16, 16):
            stat = os.statvfs(self._folder)
            blocks = stat.f_blocks - stat.f_bfree + spare
            if self._resize(blocks * stat.f_frsize):
                return  # else the server has written more than that since it was measured

    def free(self) -> None:
        """Give the room back."""
        assert self._resize(self._size)

    def _resize(self, size: int) -> bool:
        command = ["mount", "-o", f"remount,size={size}", str(self._folder)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


@contextmanager
def disk(folder: Path, size: int = 6 * 2**30) -> Iterator[Disk | None]:
    """A file system at `folder` for the length of the block; None where a mount is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    if not isolated():
        yield None
        return
    options = ["-t", "tmpfs", "-o", f"size={size}", "chaos", str(folder)]
    subprocess.run(["mount", *options], check=True, capture_output=True)
    try:
        yield Disk(folder, size)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
