"""The watch over one connection: notices when it breaks, also while no call is under way."""

import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from pipeline.store.milvus.error_mapping import is_broken_connection

log = structlog.get_logger(__name__)

_READY = "READY"


class ChannelState(Protocol):
    """A `grpc.ChannelConnectivity`."""

    @property
    def name(self) -> str:
        """READY, IDLE, TRANSIENT_FAILURE …"""


class ConnectionWatch:
    """Reports each loss of a connection once; may be used by several threads.

    A loss is noticed in two ways: the channel leaves the state READY, or a call fails because its connection broke.
    After it, nothing is reported until a call was answered: between two answers nothing new can be lost.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lost: Callable[[], None] | None = None
        self._broken = False
        self._ready = False
        self._closed = False

    def on_lost(self, lost: Callable[[], None]) -> None:
        """Call this at each loss from now on; it must not block."""
        self._lost = lost

    @property
    def watched(self) -> bool:
        """Whether somebody is to be called at a loss."""
        return self._lost is not None

    def answered(self) -> None:
        """A call got an answer."""
        self._broken = False

    def failed(self, error: BaseException) -> None:
        """A call failed."""
        if is_broken_connection(error):
            self._break()

    def state_changed(self, state: ChannelState) -> None:
        """The channel is in this state now; called by gRPC on a thread of its own."""
        ready, self._ready = self._ready, state.name == _READY
        if ready and not self._ready:
            self._break()

    def close(self) -> None:
        """Report nothing any more."""
        self._closed = True

    def _break(self) -> None:
        with self._lock:
            new, self._broken = not self._broken, True
        if new and not self._closed and self._lost is not None:
            log.warning("milvus.connection_lost", what="records acknowledged and not flushed are read again")
            self._lost()
