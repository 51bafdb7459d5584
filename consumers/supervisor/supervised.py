"""What a worker process has of its supervisor: its number, a socket for its probes, and an end when that ends."""

import ctypes
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Self

from pipeline.errors import UsageError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OPTION = re.compile(r"(\d+)/(\d+):(\d+):(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Supervised:
    """The value of the hidden option `--supervised`, by which a supervisor starts a worker."""

    number: int
    """From 0 on."""
    count: int
    """Of workers under this supervisor."""
    descriptor: int
    """Of a listening socket on loopback, inherited, for probes and metrics."""
    supervisor: int
    """Its process id."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value of the option. Raises UsageError."""
        match = _OPTION.fullmatch(text)
        if match is None:
            raise UsageError("--supervised is for the workers of `ingest --workers` only")
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}:{self.descriptor}:{self.supervisor}"

    @property
    def name(self) -> str:
        """For logs and metrics."""
        return str(self.number)

    def end_with_supervisor(self) -> None:
        """Let the kernel kill this process when its supervisor ends in whatever way (Linux only).

        A worker that is killed loses nothing. One that lived on beside those of the next supervisor would hold memory
        and a GPU, with nobody to stop it.
        """
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.supervisor:  # it has ended before
            os._exit(128 + signal.SIGKILL)

    def listener(self) -> socket.socket:
        """The inherited socket."""
        return socket.socket(fileno=self.descriptor)
