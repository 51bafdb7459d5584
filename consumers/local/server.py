"""The base of the local servers: free ports, a data folder, a guarded process, its log."""

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pipeline.errors import Unavailable, UsageError

LOOPBACK = "127.0.0.1"
LOG_TAIL_LINES = 20
# Below the range from which Linux takes the ports of outgoing connections (32768 and up, ip_local_port_range), so that
# a port found free is not taken by somebody's connection before the server binds it.
_PORTS = range(20_000, 32_000)
_GIVEN_S = 60.0
"""How long a server may take until it listens on a port that it was given: until then the port looks free."""
_GUARD = Path(__file__).with_name("guard.py")


def is_free(port: int) -> bool:
    """Whether nothing listens on `port` of any local address."""
    for host in (LOOPBACK, ""):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def free_ports(count: int) -> list[int]:
    """`count` different ports on which nothing listens, and which no other process of this user was given just now."""
    folder = Path.home() / ".cache" / "milvus-stream"
    folder.mkdir(parents=True, exist_ok=True)
    given = folder / "ports"
    with exclusively(folder / "ports.lock"):
        now = time.time()
        recent = {port: at for port, at in _ports_given(given) if 0 <= now - at < _GIVEN_S}
        tried = random.sample(_PORTS, min(len(_PORTS), 64 + count))
        ports = [port for port in tried if port not in recent and is_free(port)][:count]
        if len(ports) < count:
            raise Unavailable(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop} on this machine")
        recent.update(dict.fromkeys(ports, now))
        given.write_text("".join(f"{port} {at}\n" for port, at in recent.items()))
    return ports


def _ports_given(path: Path) -> Iterator[tuple[int, float]]:
    """The ports that were given, and when; nothing of a file that is not whole."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        for line in path.read_text().splitlines():
            port, at = line.split()
            yield int(port), float(at)


def tail(path: Path) -> str:
    """The last lines of a log, or the reason why there are none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return f"(no log at {path})"
    return "\n".join(lines[-LOG_TAIL_LINES:]) or f"(nothing in {path})"


class UseLock:
    """A lock file that says "in use": a guard ends its server when nobody holds it any more (consumers.local.guard)."""

    def __init__(self, path: Path, data: Path) -> None:
        """`data`: the data folder, which only this user may read where it is made here."""
        self.path = path
        self._data = data
        self._file: int | None = None

    def acquire(self, *, alone: bool, within_s: float) -> bool:
        """Hold the lock from now on; False when somebody else is in the way for `within_s` seconds.

        `alone`: nobody else may hold it. Otherwise only a guard that is ending its server is in the way.
        """
        try:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(f"{self.path.parent} cannot be a data folder ({error}); name another one") from error
        deadline = time.monotonic() + within_s
        while not _try_lock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                os.close(file)
                return False
            time.sleep(0.05)
        fcntl.flock(file, fcntl.LOCK_SH)
        self._file = file
        return True

    def release(self) -> bool:
        """Let go of the lock; True when nobody else uses the server, so that its end may be waited for."""
        file, self._file = self._file, None
        if file is None:
            return False
        # Where not even a shared lock can be had, the guard was quicker and has it alone already.
        unused = _try_lock(file, fcntl.LOCK_EX) or not _try_lock(file, fcntl.LOCK_SH)
        os.close(file)
        return unused


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Command:
    """What to run, where, and what to add to the environment."""

    arguments: list[str]
    directory: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class LocalServer(ABC):
    """One server on this machine, with its data in one folder.

    It stops when `stop` is called and when this process ends, in whichever way. A second start on the same folder
    finds the data again. `launch` and `await_ready` are the halves of `start`, for starting several at a time.
    """

    title: ClassVar[str]
    port_option: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_grace_s: ClassVar[float] = 10.0
    start_timeout_s: ClassVar[float] = 60.0

    def __init__(self, directory: Path, port: int | None = None) -> None:
        self.directory = directory.absolute()
        self._wanted_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._address: str | None = None
        self._lock = UseLock(self.run_directory / "lock", self.directory)

    @property
    def run_directory(self) -> Path:
        """Where lock, log and generated configuration lie."""
        return self.directory

    @property
    def log(self) -> Path:
        """The file with the server's output since its last start."""
        return self.run_directory / "server.log"

    @property
    def address(self) -> str:
        """What clients connect to; Unavailable before `start`."""
        if self._address is None:
            raise Unavailable(f"{self.title} has not been started")
        return self._address

    def start(self) -> str:
        """Start the server; returns its address once it answers a real request.

        UsageError: the port is taken, the folder is in use, or a package is missing. Unavailable: it ended or did not
        answer in time; the message ends with the last lines of its log.
        """
        try:
            self.launch()
            return self.await_ready()
        except BaseException:
            self.stop()
            raise

    def launch(self) -> None:
        """Start the process without waiting for it."""
        if not self._lock.acquire(alone=True, within_s=2 * self.stop_grace_s):
            raise UsageError(
                f"{self.directory} is in use by another running {self.title}; stop it or name another folder"
            )
        self._spawn(self._choose_port())

    def await_ready(self) -> str:
        """Wait for the first real answer; returns the address."""
        deadline = time.monotonic() + self.start_timeout_s
        while not self._answers():
            self.check()
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{self.title} did not answer within {self.start_timeout_s:.0f} s. {self._log_tail()}"
                )
            time.sleep(0.1)
        return self.address

    def check(self) -> None:
        """Unavailable, with the end of the log, when the server has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise Unavailable(f"{self.title} has ended with exit code {code}. {self._log_tail()}")

    def alive(self) -> bool:
        """Whether the server still runs."""
        try:
            self.check()
        except Unavailable:
            return False
        return self._address is not None

    def stop(self) -> None:
        """End the server in order, by force after a grace time; nothing to do when it does not run."""
        unused = self._lock.release()
        self._address = None
        process, self._process = self._process, None
        if process is None:
            return
        if not unused:  # others use the server: nothing to wait for, but this process must reap it when it ends
            threading.Thread(target=process.wait, daemon=True).start()
            return
        try:
            process.wait(self.stop_grace_s + 5)
        except subprocess.TimeoutExpired:
            process.kill()  # the kernel ends the server with its guard
            process.wait()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def _command(self, port: int) -> Command:
        """Prepare the data folder and say what to run."""

    @abstractmethod
    def _address_at(self, port: int) -> str:
        """The address of a server on `port`."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether the server at `address` answers a real request."""

    def _choose_port(self) -> int:
        if self._wanted_port is None:
            return free_ports(1)[0]
        self._require_free(self._wanted_port, self.port_option)
        return self._wanted_port

    def _require_free(self, port: int, what: str) -> None:
        if not is_free(port):
            raise UsageError(
                f"port {port} ({what}) for {self.title} is in use; stop what listens there or choose another port "
                "(`milvus-stream local up --free-ports` takes any)"
            )

    def _spawn(self, port: int) -> None:
        command = self._command(port)
        arguments = [sys.executable, "-I", "-S", str(_GUARD), str(self._lock.path)]
        arguments += [str(int(self.stop_signal)), str(self.stop_grace_s), *command.arguments]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                arguments,
                cwd=command.directory,
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches this process only, which then stops in order
            )
        self._address = self._address_at(port)

    def _log_tail(self) -> str:
        return f"The end of {self.log}:\n{tail(self.log)}"


@contextlib.contextmanager
def exclusively(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; waits for whoever has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
