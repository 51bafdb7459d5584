"""The size of a window of the embed stage, by the measured speed of the model. Times are the caller's."""

import threading

WINDOW_S = 0.5
"""Seconds of the model in one window: many forward passes, and yet rows appear twice a second."""
FIRST_TOKENS = 4_096
"""The windows before the speed is known."""
LEAST_TOKENS = 8_192
"""The least once the speed is known: a slow model would otherwise have windows of one or two passes, each with a write
of its own."""
_GROWTH = 4
"""Times the tokens of the largest window before: what a small one says of the speed is not much."""
_KEPT = 0.8
"""Weight of the windows before, with each new one: the speed is that of the last few seconds."""
_MAX_STRETCH = 64


class WindowSize:
    """Tokens of the next window: `WINDOW_S` of the model. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens = 0.0
        self._busy_s = 0.0
        self._last_end = float("-inf")
        self._largest = FIRST_TOKENS
        self._stretch = 1

    def embedded(self, tokens: int, began: float, ended: float) -> None:
        """Count a window that the model has embedded between these times, in seconds.

        Windows overlap: of a second one that waited for the model, only the time after the end of the first counts.
        """
        with self._lock:
            busy_s = max(0.0, ended - max(began, self._last_end))
            self._last_end = max(ended, self._last_end)
            self._tokens = _KEPT * self._tokens + tokens
            self._busy_s = _KEPT * self._busy_s + busy_s
            self._largest = max(self._largest, tokens)

    def next(self, *, writer_behind: bool) -> int:
        """Tokens of the next window; doubled from window to window while the write stage is behind.

        A write costs about the same time for few rows as for many, so smaller windows would slow it down further.
        """
        with self._lock:
            self._stretch = min(2 * self._stretch, _MAX_STRETCH) if writer_behind else max(self._stretch // 2, 1)
            return self._stretch * (self._in_time() if self._tokens else FIRST_TOKENS)

    def _in_time(self) -> int:
        tokens = int(WINDOW_S * self._tokens / max(self._busy_s, 1e-6))
        return max(LEAST_TOKENS, min(tokens, _GROWTH * self._largest))
