"""The guard of a local server: runs it while any process holds the lock file, and stops it afterwards.

A script of its own, started as `python -I -S guard.py LOCK SIGNAL GRACE COMMAND…`: it imports nothing of the
project, so that it starts in milliseconds and stays small. Every process that uses the server holds a shared flock
on LOCK; the kernel drops that lock however the process ends, kill -9 included, and then the guard ends the server:
SIGNAL first, SIGKILL after GRACE seconds. A killed guard takes the server with it on Linux (PR_SET_PDEATHSIG).
Exit code: the server's own, or 128 + the signal that ended it.
"""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _in_child(guard: int) -> None:
    # A shell that starts a job in the background leaves SIGINT ignored, and exec keeps that: the server would not stop.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)


def main(arguments: list[str]) -> int:
    """Run the command until it ends or the lock is free; returns the exit code."""
    lock_path, stop_signal, grace_s, *command = arguments
    lock = os.open(lock_path, os.O_RDWR)
    guard = os.getpid()
    # The guard is one thread here, so running code between fork and exec is safe.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=lambda: _in_child(guard))  # noqa: PLW1509, S603

    def end_server() -> None:
        server.send_signal(int(stop_signal))
        time.sleep(float(grace_s))  # the process ends with the server, in the middle of this sleep
        server.kill()

    def end_when_unused() -> None:
        fcntl.flock(lock, fcntl.LOCK_EX)
        end_server()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=end_server, daemon=True).start())
    threading.Thread(target=end_when_unused, daemon=True).start()
    code = server.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
