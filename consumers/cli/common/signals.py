"""How SIGTERM and SIGINT end a command."""

import os
import signal
import sys
import threading


class StopSignals(threading.Event):
    """The event that the first SIGTERM or SIGINT sets. The second one ends the process without any cleaning up.

    Nobody reads the event while a model is loaded or a server connected. So until `end_in_order` the first signal ends
    the command itself, by SystemExit with 128 and its number: what the command has opened is closed.
    """

    def __init__(self, *, repeated_ends: bool = True) -> None:
        """Take the two signals; the main thread only. `repeated_ends`: else a second one changes nothing."""
        super().__init__()
        self._repeated_ends = repeated_ends
        self._code: int | None = None
        self._at_once = True
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def end_at_once(self) -> None:
        """Let a signal end the command where it is, from now on."""
        self._at_once = True
        self._exit_if_signalled()

    def end_in_order(self) -> None:
        """Let a signal only set the event, from now on."""
        self._at_once = False
        # A library that was being imported may have caught the exception.
        self._exit_if_signalled()

    def _on_signal(self, number: int, _: object) -> None:
        if self._code is not None:
            if self._repeated_ends:
                os._exit(128 + number)
            return
        self._code = 128 + number
        if self._at_once:
            sys.exit(self._code)
        self.set()

    def _exit_if_signalled(self) -> None:
        if self._code is not None:
            sys.exit(self._code)


def exit_on_sigterm() -> None:
    """Let SIGTERM end the command with 143 by an exception, so that what it made for itself is removed."""

    def on_signal(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not break off the removing
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, on_signal)
